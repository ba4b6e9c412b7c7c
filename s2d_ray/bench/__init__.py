"""Measurements and long checks that are run by hand, not by the tests."""
