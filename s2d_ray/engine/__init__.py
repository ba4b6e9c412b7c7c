"""Engines: state machines for targets and the draft, and the loops that drive them. No Ray."""
