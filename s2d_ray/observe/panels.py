"""What a dashboard is made of, as data. Knows nothing of what is shown, nor of Grafana's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Look(StrEnum):
    """How a panel shows its queries; Grafana's names."""

    GRAPH = "timeseries"
    NUMBER = "stat"
    STATES = "state-timeline"
    TABLE = "table"


@dataclass(frozen=True)
class Query:
    """An expression, and how its series are called: "{{target}}"."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    text: how to read it, one sentence. unit: Grafana's name of it. words: what single values mean.
    stacked: graphs that add up. unchecked: no machine that has this has run it.
    """

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    look: Look = Look.GRAPH
    words: Mapping[int, str] = field(default_factory=dict)
    stacked: bool = False
    unchecked: bool = False


@dataclass(frozen=True)
class Row:
    """Panels below one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a page: the values of a label of a metric, several or all of them."""

    label: str
    metric: str


@dataclass(frozen=True)
class Dashboard:
    """One page. name: of its file and of its address."""

    name: str
    title: str
    text: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> Iterator[Panel]:
        """All panels, in order."""
        return (panel for row in self.rows for panel in row.panels)


def graph(title: str, text: str, unit: str, *queries: tuple[str, str]) -> Panel:
    """Lines over time; queries as (expression, legend)."""
    return Panel(title, text, unit, _queries(queries))


def stack(title: str, text: str, unit: str, *queries: tuple[str, str]) -> Panel:
    """Areas that add up."""
    return Panel(title, text, unit, _queries(queries), stacked=True)


def number(
    title: str, text: str, unit: str, expr: str, words: Mapping[int, str] | None = None
) -> Panel:
    """One number, the latest."""
    return Panel(title, text, unit, (Query(expr, ""),), Look.NUMBER, words or {})


def states(title: str, text: str, words: Mapping[int, str], *queries: tuple[str, str]) -> Panel:
    """Coloured bars over time, one word for each value."""
    return Panel(title, text, "none", _queries(queries), Look.STATES, words)


def listing(title: str, text: str, unit: str, expr: str) -> Panel:
    """A table of the latest values, a line for each set of labels."""
    return Panel(title, text, unit, (Query(expr, ""),), Look.TABLE)


def _queries(pairs: tuple[tuple[str, str], ...]) -> tuple[Query, ...]:
    return tuple(Query(expr, legend) for expr, legend in pairs)


def table(dashboard: Dashboard) -> str:
    """The page's panels as a table of Markdown, as docs/dashboards.md has it."""
    lines = ["| panel | how to read it |", "|---|---|"]
    for panel in dashboard.panels:
        mark = " *(unchecked)*" if panel.unchecked else ""
        lines.append(f"| {panel.title}{mark} | {panel.text} |")
    return "\n".join(lines)
