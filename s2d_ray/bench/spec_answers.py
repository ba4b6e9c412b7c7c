"""Answered questions on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2d_ray.bench.line_file import LineFile
from s2d_ray.bench.spec_figures import Answer, Answered

ANSWERS = "answers.jsonl"


class AnswerFile(LineFile[Answered]):
    """The answers of the run in `folder`. settings: what they depend on. Raises DataError."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, ANSWERS, settings, parse_answered)


def parse_answered(tree: dict[str, Any]) -> Answered:
    """From plain values."""
    answers = {plan: _answer(fields) for plan, fields in tree.pop("answers").items()}
    return Answered(**tree, answers=answers)


def _answer(fields: dict[str, Any]) -> Answer:
    """JSON has no tuples and no whole numbers as keys."""
    turns = tuple(tuple(ids) for ids in fields.pop("turns"))
    accepted_by, steps = _counts(fields.pop("accepted_by")), _counts(fields.pop("steps"))
    return Answer(**fields, turns=turns, accepted_by=accepted_by, steps=steps)


def _counts(tree: dict[str, int]) -> dict[int, int]:
    return {int(layers): count for layers, count in tree.items()}
