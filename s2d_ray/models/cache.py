"""Folders of checkpoints: what a whole one has, and the cache, where a folder is whole or absent.

Imports neither torch nor transformers, so that finding a cached model takes milliseconds.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from s2d_ray.errors import ModelError

LINEAGE = "lineage.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"

Report = Callable[[str], None]


@dataclass(frozen=True)
class CachedModel:
    """A checkpoint in the cache."""

    name: str
    source: str
    num_bytes: int
    path: Path


def cache_dir() -> Path:
    """Folder of all fetched models: below XDG_CACHE_HOME where that is set."""
    return platformdirs.user_cache_path("s2d-ray", appauthor=False) / "models"


def cached_models() -> list[CachedModel]:
    """The checkpoints of the cache, by name."""
    return [
        CachedModel(
            name=path.parent.name,
            source=read_lineage(path.parent)["source"],
            num_bytes=sum(file.stat().st_size for file in path.parent.iterdir()),
            path=path.parent,
        )
        for path in sorted(cache_dir().glob(f"[!.]*/{LINEAGE}"))
    ]


def build_once(folder: Path, label: str, build: Callable[[Path], Path], report: Report) -> None:
    """Have a whole checkpoint in `folder`, which only one process at a time works on.

    build: takes a folder to work in, kept if it fails; returns the finished checkpoint within.
    Raises ModelError if the disk is in the way, and what `build` raises.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(f".{folder.name}.lock"), label, report):
            if not is_complete(folder):
                _build(folder, label, build, report)
    except OSError as error:
        raise ModelError(f"{label}: cannot be prepared in {folder.parent}: {error}") from None


def _build(folder: Path, label: str, build: Callable[[Path], Path], report: Report) -> None:
    """Build beside the final place, then move there in one step."""
    started_s = time.monotonic()
    work = folder.with_name(f".{folder.name}.partial")
    work.mkdir(exist_ok=True)
    checkpoint = build(work)
    check_files(checkpoint)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(checkpoint, folder)
    shutil.rmtree(work, ignore_errors=True)
    report(f"{label}: ready after {time.monotonic() - started_s:.0f} s in {folder}")


@contextmanager
def _lock(path: Path, label: str, report: Report) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        report(f"{label}: another process is preparing it, waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_complete(folder: Path) -> bool:
    """Whether a folder of the cache holds a whole checkpoint and says where it is from."""
    return (folder / LINEAGE).is_file() and _missing_file(folder) is None


def check_files(folder: Path) -> None:
    """Raise ModelError naming the first file that a checkpoint in `folder` lacks."""
    if (missing := _missing_file(folder)) is not None:
        hint = " (only safetensors weights are loaded)" if missing.name == WEIGHTS else ""
        raise ModelError(f"{missing}: missing{hint}")


def _missing_file(folder: Path) -> Path | None:
    """Weights may lie in shards, which their index names."""
    index = folder / WEIGHTS_INDEX
    weights = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and index.is_file():
        weights = sorted(set(_read_json(index).get("weight_map", {WEIGHTS: WEIGHTS}).values()))
    needed = (folder / name for name in ("config.json", "tokenizer.json", *weights))
    return next((path for path in needed if not path.is_file()), None)


def read_lineage(folder: Path) -> dict[str, Any]:
    """Where a checkpoint of the cache is from: at least its pinned `source`."""
    return _read_json(folder / LINEAGE)


def write_lineage(folder: Path, lineage: dict[str, Any]) -> None:
    """Say where a checkpoint is from."""
    (folder / LINEAGE).write_text(json.dumps(lineage, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    if not isinstance(tree, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return tree
