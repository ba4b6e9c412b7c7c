"""The whole service on one cluster."""
