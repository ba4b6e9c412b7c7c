"""The folder of a long job: what the job was begun with, and files that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2d_ray.errors import DataError

SETTINGS = "run.json"


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep what the job depends on in the folder, or check that the job in it is this one.

    Raises DataError as `check_same`, or if what is kept cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    check_same(folder, held, json.loads(json.dumps(settings)))


def check_same(folder: Path, held: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raises DataError naming the first setting that is not as the folder was begun with."""
    for name, value in asked.items():
        if held.get(name) != value:
            raise DataError(
                f"{folder}: was begun with {name} {held.get(name)}, not {value}; "
                "name another folder with --out"
            )


def write_atomically(path: Path, text: str) -> None:
    """Have the whole text in `path`, or what was there before."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
