"""One HTML page of many results: no script, nothing from elsewhere, the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from s2d_ray.report import history, learned, measured, sentences, service
from s2d_ray.report.history import Entry
from s2d_ray.report.parts import Section
from s2d_ray.report.sources import COMMANDS, Source

TEMPLATE = "page.html"


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE)


def render(
    sources: Sequence[Source],
    entries: Sequence[Entry] = (),
    title: str = "Measurements",
    first: Sequence[Section] = (),
) -> str:
    """The page. entries: of the history. first: sections ahead of all others.

    Raises RunError without matplotlib.
    """
    kinds = list(COMMANDS.values())
    ordered = sorted(sources, key=lambda each: (kinds.index(each.kind), each.name, each.digest))
    sections = [
        *first,
        measured.speed(ordered),
        learned.acceptance(ordered),
        learned.prediction(ordered),
        measured.concurrency(ordered),
        measured.curves(ordered),
        service.section(ordered),
        history.section(entries),
    ]
    page = _template().render(
        title=title,
        summary=sentences.by_target(ordered),
        sections=[each for each in sections if each.blocks],
        sources=ordered,
    )
    return f"{page.strip()}\n"
