"""Environments of their own, for tools that need other releases than the project's.

The first use on a machine installs the pinned packages into the user's cache.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

import filelock
import platformdirs

TIMEOUT_S = 600


def environment(pins: Path) -> Path:
    """The Python of an environment that holds exactly what a file of pins names."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = hashlib.sha256(pins.read_bytes() + version.encode()).hexdigest()[:16]
    folder = Path(platformdirs.user_cache_dir("s2d-ray")) / "environments" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, mark = folder / "bin" / "python", folder / "whole"
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not mark.exists():
            venv.create(folder, with_pip=True, clear=True)
            command = [python, "-m", "pip", "install", "-q", "--no-deps", "--only-binary", ":all:"]
            subprocess.run([*command, "-r", pins], check=True, timeout=TIMEOUT_S)
            mark.touch()
    return python
