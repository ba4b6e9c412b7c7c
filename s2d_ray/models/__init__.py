"""Models: sources, loading, linear and attention seams, KV pool, the sorted draft."""
