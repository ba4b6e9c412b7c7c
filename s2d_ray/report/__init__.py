"""Results of benchmarks and tuning, read again: a page of them, and what changed between two."""
