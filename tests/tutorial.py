"""Runs every shell block of docs/tutorial.md in order, in one shell, in a new clone.

    make tutorial

The clone is of this checkout's last commit. It borrows the packages that are installed here, which
`make setup-dev` then finds complete; the model of one's own is a tiny random one. The first command
that fails ends the run, and the exit status is its status. Nothing is left behind.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from s2d_ray.install import pins_key, write_mark
from tests.blocks import ROOT, shell_blocks
from tests.ports import free_port

PAGE = "docs/tutorial.md"
CLONED = "cd s2d-ray"
"""The line behind which the shell stands in the clone."""

SEPARATOR = "\n\0\n"
MARK = "installed.json"
TIMEOUT_S = 3_600


def script(blocks: Sequence[str], values: Mapping[str, str], borrow: str) -> str:
    """The blocks as one script that shows each of them, then runs it.

    values: what the variables of the first block are set to. borrow: run once, in the new clone.
    Raises ValueError if a variable or the clone is not in the blocks exactly once.
    """
    told = [
        f"printf '\\n== %s s, block {number}\\n%s\\n' $SECONDS {shlex.quote(block)}"
        for number, block in enumerate(blocks, 1)
    ]
    run = SEPARATOR.join(blocks)
    lines = {f"{name}=.*": f"{name}={shlex.quote(value)}" for name, value in values.items()}
    for pattern, line in (lines | {CLONED: f"{CLONED}\n{borrow}"}).items():
        run, count = re.subn(f"^{pattern}$", line.replace("\\", r"\\"), run, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"{PAGE}: {pattern!r} must be a line once, not {count} times")
    pairs = zip(told, run.split(SEPARATOR), strict=True)
    shown = (part for pair in pairs for part in pair)
    return "\n".join(["set -euo pipefail", *shown, 'echo "== $SECONDS s, done"', ""])


def borrow_environment(clone: Path) -> None:
    """Have `clone/.venv` hold what this interpreter's environment does, marked as complete."""
    venv = clone / ".venv"
    venv.mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != MARK:
            (venv / path.name).symlink_to(path)
    write_mark(venv / MARK, pins_key(clone), "dev")


def environment_of(folder: Path) -> dict[str, str]:
    """The run's own state and drafts, beside the models that this machine has already fetched.

    The package is the clone's: the borrowed environment knows this checkout only.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s2d-ray" / "models"
    cache.mkdir(parents=True, exist_ok=True)
    own = folder / "cache" / "s2d-ray"
    own.mkdir(parents=True)
    (own / "models").symlink_to(cache)
    return os.environ | {
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": str(folder / "s2d-ray"),
    }


def logs_of(clone: Path) -> Iterator[str]:
    """The last lines of what ran in the background."""
    for path in sorted((clone / "mine").glob("*.log")):
        yield f"== {path.name}"
        yield from path.read_text(encoding="utf-8").splitlines()[-20:]


def run(blocks: Sequence[str]) -> int:
    """Run the blocks. -> the status of the shell."""
    from tests.tiny_qwen import save_tiny_qwen  # here, since the clone's part needs no torch

    with TemporaryDirectory(prefix="tutorial-") as name:
        folder = Path(name).resolve()
        save_tiny_qwen(folder / "model")
        values = {
            "REPOSITORY": str(ROOT),
            "TARGET": str(folder / "model"),
            "PORT": str(free_port()),
        }
        code = (
            f"from tests.tutorial import *; borrow_environment(Path({str(folder / 's2d-ray')!r}))"
        )
        borrow = f"PYTHONPATH={shlex.quote(str(ROOT))} {sys.executable} -c {shlex.quote(code)}"
        (folder / "tutorial.sh").write_text(script(blocks, values, borrow), encoding="utf-8")
        environment = environment_of(folder)
        try:
            status = subprocess.run(
                ["bash", "tutorial.sh"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
                check=False,
            ).returncode
            if status:
                print("\n".join(logs_of(folder / "s2d-ray")), file=sys.stderr)
        finally:
            stop = [str(Path(sys.prefix) / "bin" / "s2d"), "stop"]
            subprocess.run(stop, env=environment, timeout=120, check=False)
    return status


if __name__ == "__main__":
    sys.exit(run(shell_blocks(PAGE)))
