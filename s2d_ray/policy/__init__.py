"""Decisions as pure functions and state machines: no clock of their own, no input, no output."""
