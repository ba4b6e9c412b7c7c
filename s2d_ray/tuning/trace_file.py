"""Recorded traces on disk, one line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2d_ray.bench.line_file import LineFile
from s2d_ray.core.replay import Spot, Trace
from s2d_ray.errors import DataError

TRACES = "traces.jsonl"


@dataclass(frozen=True)
class Traced:
    """One text of one target. prompt: its number. task: its class."""

    target: str
    prompt: int
    task: str
    trace: Trace

    @property
    def key(self) -> tuple[str, int, float]:
        """What was asked."""
        return self.target, self.prompt, self.trace.temperature


class TraceFile(LineFile[Traced]):
    """The traces of the run in `folder`. settings: what they depend on. Raises DataError."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, TRACES, settings, traced)

    def plain(self, item: Traced) -> dict[str, Any]:
        """One line."""
        return plain(item)


def plain(item: Traced) -> dict[str, Any]:
    """Guesses as three tables [positions][exits]."""
    trace = item.trace
    spots = trace.spots
    return {
        "target": item.target,
        "prompt": item.prompt,
        "task": item.task,
        "exit_layers": trace.exit_layers,
        "prompt_ids": trace.prompt_ids,
        "output_ids": trace.output_ids,
        "max_tokens": trace.max_tokens,
        "temperature": trace.temperature,
        "end_ids": trace.end_ids,
        "confidence": [[spot.confidence for spot in each] for each in spots],
        "rank": [[spot.rank for spot in each] for each in spots],
        "ends": [[int(spot.ends) for spot in each] for each in spots],
    }


def traced(tree: dict[str, Any]) -> Traced:
    """The opposite of `plain`. Raises ValueError, TypeError or KeyError."""
    tables = [tree.pop(name) for name in ("confidence", "rank", "ends")]
    spots = [
        [Spot(c, r, bool(e)) for c, r, e in zip(*rows, strict=True)]
        for rows in zip(*tables, strict=True)
    ]
    head = {name: tree.pop(name) for name in ("target", "prompt", "task")}
    for name in ("exit_layers", "prompt_ids", "output_ids", "end_ids"):
        tree[name] = tuple(tree[name])
    if len(spots) != max(0, len(tree["output_ids"]) - 1):
        raise ValueError("a guess at each position is wanted")
    return Traced(**head, trace=Trace(**tree, spots=spots))


def read_traces(folder: Path) -> list[tuple[str, str, Trace]]:
    """(target, class of task, trace) of all in `folder`. Raises DataError if there are none."""
    path = folder / TRACES
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [traced(json.loads(line)) for line in lines]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; run `s2d calibrate`") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: is damaged: {error}") from None
    if not found:
        raise DataError(f"{path}: has no traces; run `s2d calibrate` first")
    return [(each.target, each.task, each.trace) for each in found]
