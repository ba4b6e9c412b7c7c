"""Results over time: a file with a line of JSON per result, each result once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from s2d_ray.errors import DataError
from s2d_ray.job_folder import write_atomically
from s2d_ray.report import plots
from s2d_ray.report.figures import figures_of
from s2d_ray.report.parts import Block, Section
from s2d_ray.report.shapes import Shape
from s2d_ray.report.sources import Source

SHOWN = ("over plain", "agreement", "plain_vs_generate", "speculation / auto", "tokens per second")
"""Ends of the names of figures that are plotted."""

MOST = 8
"""Lines of one picture."""


class Entry(Shape):
    """One result. digest: of its content, by which it is known again."""

    digest: str
    kind: str
    commit: str
    figures: dict[str, float]


def entry_of(source: Source) -> Entry:
    """A result as history keeps it."""
    values = {each.name: round(each.value, 6) for each in figures_of(source)}
    return Entry(digest=source.digest, kind=source.kind, commit=source.commit, figures=values)


def read(path: Path) -> list[Entry]:
    """All lines, the oldest first; none if there is no file. Raises DataError naming a bad line."""
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(Entry.model_validate(json.loads(line)))
        except (ValueError, ValidationError):
            raise DataError(f"{path}:{number}: is no line of a history; remove it") from None
    return found


def append(path: Path, sources: Sequence[Source]) -> list[Entry]:
    """Add the results that are not there yet. -> all lines"""
    held = read(path)
    known = {each.digest for each in held}
    for source in sources:
        if source.digest not in known:
            known.add(source.digest)
            held.append(entry_of(source))
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(each.model_dump(), sort_keys=True) for each in held]
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    return held


def section(entries: Sequence[Entry]) -> Section:
    """For each kind of result its main figures, run after run, named by commit."""
    blocks = []
    for kind in dict.fromkeys(each.kind for each in entries):
        runs = [each for each in entries if each.kind == kind]
        names = dict.fromkeys(
            name for each in runs for name in each.figures if name.endswith(SHOWN)
        )
        for scale in (False, True):
            chosen = [name for name in names if name.endswith("tokens per second") == scale]
            series = {
                name: [
                    (n, each.figures[name]) for n, each in enumerate(runs) if name in each.figures
                ]
                for name in chosen[:MOST]
            }
            if series and len(runs) > 1:
                title = f"{kind}: {'tokens per second' if scale else 'ratios and shares'}"
                ticks = [each.commit[:7] for each in runs]
                blocks.append(Block(title, "", [plots.lines(title, series, "", "", ticks=ticks)]))
    text = "Runs in the order they were told of, by commit; kinds with two runs or more."
    return Section("history", "Over commits", text, blocks)
