"""The machine this runs on. Stdlib only."""

from __future__ import annotations

from pathlib import Path


def cpu_model() -> str:
    """The CPU's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"
