"""Pictures of a report, as SVG that stands in the page.

Text and axes take the colour of the page's text, so one picture serves light and dark. The same
values give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from s2d_ray.pictures import need_pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 5.2
"""Inches of 72 units: a little more than a phone is wide."""

LEGEND = 62
"""Letters that a line of the legend has room for."""

INK = "#010203"
"""Stands for the colour of the page's text; no palette has it."""

STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

COLOURS = ("#0a85c2", "#e08a00", "#1aa179", "#c76a9c", "#8a6fd1", "#a3a012", "#5b9bd5", "#d1603d")
"""Told apart on white and on black, by most eyes."""

PLAIN, GREY = "plain", "#8b949e"
"""The baseline's bar, which takes no colour from the others."""


@dataclass(frozen=True)
class Bar:
    """One bar. ends: lowest and highest, if known."""

    label: str
    value: float
    ends: tuple[float, float] | None = None


Points = Sequence[tuple[float, float]]


def bars(
    title: str,
    chosen: Sequence[Bar],
    xlabel: str = "over plain decoding",
    mark: float | None = 1.0,
) -> Markup:
    """Bars from top to bottom, and a line at `mark`."""

    def draw(panel: Axes) -> None:
        colours = cycle(COLOURS)
        for place, bar in enumerate(chosen):
            colour = GREY if bar.label == PLAIN else next(colours)
            panel.barh(place, bar.value, 0.65, color=colour)
            if bar.ends:
                panel.plot(bar.ends, [place, place], color=INK, linewidth=1.2, marker="|")
        if mark is not None:
            panel.axvline(mark, color=INK, linestyle=":", linewidth=1)
        panel.set(xlabel=xlabel, xlim=(0, None))
        panel.set_yticks(range(len(chosen)), [bar.label for bar in chosen])
        panel.invert_yaxis()
        panel.grid(False, axis="y")

    return _picture(title, 0.9 + 0.32 * len(chosen), draw)


def grouped(title: str, groups: Mapping[str, Mapping[str, float]], xlabel: str) -> Markup:
    """For each group a bar per series, and a line at 1."""
    series = list(dict.fromkeys(name for values in groups.values() for name in values))
    thick = 0.84 / max(1, len(series))

    def draw(panel: Axes) -> None:
        for number, name in enumerate(series):
            held = [(place, of[name]) for place, of in enumerate(groups.values()) if name in of]
            places = [place - 0.42 + thick * (number + 0.5) for place, _ in held]
            colour = COLOURS[number % len(COLOURS)]
            panel.barh(places, [value for _, value in held], thick, label=name, color=colour)
        panel.axvline(1.0, color=INK, linestyle=":", linewidth=1)
        panel.set(xlabel=xlabel, xlim=(0, None))
        panel.set_yticks(range(len(groups)), list(groups))
        panel.invert_yaxis()
        panel.grid(False, axis="y")

    return _picture(title, 1.3 + len(groups) * max(0.4, 0.15 * len(series)), draw, legend=True)


def lines(
    title: str,
    series: Mapping[str, Points],
    xlabel: str,
    ylabel: str,
    *,
    diagonal: bool = False,
    ticks: Sequence[str] = (),
    from_zero: bool = True,
) -> Markup:
    """Points joined in order. diagonal: also where both axes agree. ticks: names of x = 0, 1, …"""

    def draw(panel: Axes) -> None:
        if diagonal:
            panel.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=1)
        for number, (name, points) in enumerate(series.items()):
            colour = COLOURS[number % len(COLOURS)]
            x, y = [point[0] for point in points], [point[1] for point in points]
            panel.plot(x, y, marker="o", markersize=3.5, label=name, color=colour)
        panel.set(xlabel=xlabel, ylabel=ylabel)
        if from_zero:
            panel.set_ylim(bottom=0)
        if ticks:
            panel.set_xticks(range(len(ticks)), ticks, rotation=30, ha="right")

    return _picture(title, 3.6, draw, legend=True)


def agreement(title: str, points: Mapping[str, tuple[float, float]]) -> Markup:
    """Each name at (predicted, measured), and where both agree."""

    def draw(panel: Axes) -> None:
        both = [value for point in points.values() for value in point]
        panel.plot([min(both), max(both)], [min(both), max(both)], color=INK, linestyle=":")
        for number, (name, (predicted, measured)) in enumerate(points.items()):
            colour = COLOURS[number % len(COLOURS)]
            panel.plot(predicted, measured, "o", color=colour, label=name)
        panel.set(xlabel="predicted, over plain", ylabel="measured, over plain")

    return _picture(title, 4.0, draw, legend=True)


def _picture(
    title: str, height: float, draw: Callable[[Axes], None], legend: bool = False
) -> Markup:
    """An SVG element. Raises RunError without matplotlib."""
    need_pictures()
    import matplotlib.style
    from matplotlib.figure import Figure

    # The title keeps apart what several pictures of a page define by name.
    with matplotlib.style.context(["default", STYLE | {"svg.hashsalt": title}]):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panel = figure.subplots()
        draw(panel)
        panel.set_title(title.rpartition(": ")[2])  # the page has the rest above it
        if legend:
            longest = max(map(len, panel.get_legend_handles_labels()[1]), default=1)
            figure.legend(loc="outside lower center", ncols=max(1, LEGEND // (longest + 6)))
        text = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", metadata=metadata)
    return _as_element(text.getvalue(), title)


def _as_element(document: str, title: str) -> Markup:
    """The one element of an SVG document, in the colours of the page and named for readers.

    Without the names of groups, which no two elements of a page may share, and without the style,
    which the page has.
    """
    head, rest = document[document.index("<svg") :].split(">", 1)
    rest = re.sub(r'<g id="[^"]*"', "<g", rest)
    rest = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", rest, count=1, flags=re.DOTALL)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    start = f'<svg role="img" aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg" '
    start += f'xmlns:xlink="http://www.w3.org/1999/xlink" {box}>'
    return Markup(start + rest.replace(INK, "currentColor").strip())
