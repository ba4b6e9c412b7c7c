"""Results on disk, one line of JSON each, so that a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from s2d_ray.errors import DataError
from s2d_ray.job_folder import begin

Item = TypeVar("Item")


class LineFile(Generic[Item]):
    """The items of the run in `folder`, in the order they came.

    settings: what they depend on. parse: from plain values to a dataclass; raises ValueError,
    TypeError, KeyError or AttributeError if they are something else. Raises DataError that names
    the first setting which differs from those the folder was begun with, or a damaged line.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: Mapping[str, Any],
        parse: Callable[[dict[str, Any]], Item],
    ) -> None:
        begin(folder, settings)
        self._path = folder / name
        self._parse = parse
        self._path.touch()
        self.held = self._read()

    def append(self, item: Item) -> None:
        """Keep one more, on the disk before this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.plain(item)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.held.append(item)

    def plain(self, item: Item) -> dict[str, Any]:
        """An item as plain values."""
        fields: dict[str, Any] = asdict(item)  # type: ignore[call-overload]
        return fields

    def _read(self) -> list[Item]:
        """All whole lines; half a line at the end is what a killed run left, and is cut off."""
        text = self._path.read_bytes()
        whole, newline, half = text.rpartition(b"\n")
        if half:
            os.truncate(self._path, len(whole) + len(newline))
        found = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                found.append(self._parse(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise DataError(f"{self._path}:{number}: is damaged; remove the line") from None
        return found
