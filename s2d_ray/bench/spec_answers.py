"""Answered questions on disk, one line of JSON each, so that a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from s2d_ray.bench.spec_figures import Answer, Answered
from s2d_ray.errors import DataError
from s2d_ray.job_folder import begin

ANSWERS = "answers.jsonl"


class AnswerFile:
    """The answers of the run in `folder`, in the order they came.

    settings: what the answers depend on. Raises DataError that names the first one which differs
    from those the folder was begun with, or a damaged line.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        begin(folder, settings)
        self._path = folder / ANSWERS
        self._path.touch()
        self.held = self._read()

    def append(self, answered: Answered) -> None:
        """Keep one more, on the disk before this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(answered)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.held.append(answered)

    def _read(self) -> list[Answered]:
        """All whole lines; half a line at the end is what a killed run left, and is cut off."""
        text = self._path.read_bytes()
        whole, newline, half = text.rpartition(b"\n")
        if half:
            os.truncate(self._path, len(whole) + len(newline))
        found = []
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                found.append(_answered(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise DataError(f"{self._path}:{number}: is damaged; remove the line") from None
        return found


def _answered(tree: dict[str, Any]) -> Answered:
    answers = {plan: _answer(fields) for plan, fields in tree.pop("answers").items()}
    return Answered(**tree, answers=answers)


def _answer(fields: dict[str, Any]) -> Answer:
    """JSON has no tuples and no whole numbers as keys."""
    turns = tuple(tuple(ids) for ids in fields.pop("turns"))
    accepted_by, steps = _counts(fields.pop("accepted_by")), _counts(fields.pop("steps"))
    return Answer(**fields, turns=turns, accepted_by=accepted_by, steps=steps)


def _counts(tree: dict[str, int]) -> dict[int, int]:
    return {int(layers): count for layers, count in tree.items()}
