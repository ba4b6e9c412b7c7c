"""Serving: the only place that imports Ray."""
