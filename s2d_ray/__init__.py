"""Sorted Speculative Decoding on Ray Serve: one shared draft, many exact targets."""

__version__ = "0.1.0"
