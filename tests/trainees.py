"""Tiny training runs: random corpora, drafts of six layers, some updates in a second."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from s2d_ray.train.options import Recipe
from s2d_ray.train.start import Origin, train_draft
from s2d_ray.train.training import Leg

RECIPE = Recipe(
    layers="first:2,last:2",
    exits=(2, 4),
    head_size=90,
    rank=4,
    learning_rate=3e-3,
    warmup_steps=2,
    steps=6,
    texts=3,
    evaluation_steps=2,
)


def train(
    checkpoint: Path,
    corpus: Path,
    out: Path,
    *,
    start: Path | None = None,
    leg: Leg | None = None,
    advance: Callable[[int], None] = lambda tokens: None,
    **changes: Any,
) -> bool:
    """Train by `RECIPE` with changes. -> whether the run is at its end"""
    recipe = replace(RECIPE, **changes)
    origin = Origin(str(checkpoint), (corpus,), start)
    return train_draft(origin, out, recipe, leg or Leg(), lambda line: None, advance)


def losses(out: Path) -> list[float]:
    """The losses of all steps, in order."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [line["loss"] for line in lines]
