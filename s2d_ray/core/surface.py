"""A cost as a function of two sizes, from measured points: monotone, and defined everywhere.

More work never costs less, so measured noise that says otherwise is evened out. Stdlib only.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

Points = Mapping[tuple[int, int], float]

CACHED = 4_096
"""Answers kept."""

FAR = 10**6
"""A size beyond all others."""


class Surface:
    """Seconds by two sizes of at least 1. Between measured sizes along straight lines; beyond the
    last ones along the last line, or a steeper one of less work."""

    def __init__(self, points: Points) -> None:
        """points: need not fill a grid; see `_completed`. Raises ValueError if there are none, or
        one is no positive number."""
        if not points or not all(0 < seconds < math.inf for seconds in points.values()):
            raise ValueError("needs measured points, all of them positive")
        self.points = dict(points)
        firsts = sorted({first for first, _ in points})
        seconds = sorted({second for _, second in points})
        smooth = _monotone(_completed(points, firsts, seconds))
        rows = _rising([_prolonged(seconds, [smooth[a, b] for b in seconds]) for a in firsts])
        columns = _rising([_prolonged(firsts, column) for column in zip(*rows, strict=True)])
        self._rows = list(zip(*columns, strict=True))
        self._firsts, self._seconds = [*firsts, FAR], [*seconds, FAR]
        self.at = lru_cache(CACHED)(self._at)
        """Seconds; sizes below the smallest measured ones count as those."""

    def __reduce__(self) -> tuple[type[Surface], tuple[Points]]:
        """The cache stays here."""
        return Surface, (self.points,)

    def _at(self, first: float, second: float) -> float:
        low, high, share = _between(self._firsts, first)
        below, above = (self._along(self._rows[place], second) for place in (low, high))
        return below + (above - below) * share

    def _along(self, row: Sequence[float], second: float) -> float:
        low, high, share = _between(self._seconds, second)
        return row[low] + (row[high] - row[low]) * share


def _completed(
    points: Points, firsts: Sequence[int], seconds: Sequence[int]
) -> dict[tuple[int, int], float]:
    """The whole grid. A missing point is its neighbour's on the axis, moved by what the same step
    along the axis changes in the nearest complete lines."""
    found = dict(points)
    whole = [b for b in seconds if all((a, b) in points for a in firsts)]
    if not whole:
        raise ValueError(f"needs a second size that was measured with each of {list(firsts)}")
    base = firsts[0]
    for a in firsts:
        low_high = [(b, points[a, b] - points[base, b]) for b in whole]
        for b in seconds:
            if (a, b) not in found:
                if (base, b) not in points:
                    raise ValueError(f"({base}, {b}) is missing, which ({a}, {b}) is made from")
                found[a, b] = max(points[base, b], points[base, b] + _line(low_high, b))
    return found


def _line(points: Sequence[tuple[int, float]], at: int) -> float:
    places = [place for place, _ in points]
    low, high, share = _between(places, at)
    return points[low][1] + (points[high][1] - points[low][1]) * share


def _monotone(grid: Mapping[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """Half-way between the least rising function above and the greatest one below."""
    return {
        (a, b): 0.5
        * (
            max(value for (c, d), value in grid.items() if c <= a and d <= b)
            + min(value for (c, d), value in grid.items() if c >= a and d >= b)
        )
        for a, b in grid
    }


def _between(places: Sequence[int], at: float) -> tuple[int, int, float]:
    """The neighbours of a size, by index, and how far it is from the lower one: 0 … 1."""
    high = min(max(bisect_left(places, at), 1), len(places) - 1)
    low = max(0, high - 1)
    if low == high:
        return low, high, 0.0
    share = (at - places[low]) / (places[high] - places[low])
    return low, high, min(1.0, max(0.0, share))


def _prolonged(places: Sequence[int], values: Sequence[float]) -> list[float]:
    """And the value at `FAR`, on the last line; with a single point, in proportion to the size."""
    if len(places) < 2:
        return [values[0], values[0] * FAR / places[0]]
    slope = (values[-1] - values[-2]) / (places[-1] - places[-2])
    return [*values, values[-1] + slope * (FAR - places[-1])]


def _rising(lines: Iterable[Sequence[float]]) -> list[tuple[float, ...]]:
    """Each line nowhere below the one before it."""
    return list(accumulate(map(tuple, lines), lambda a, b: tuple(map(max, a, b))))
