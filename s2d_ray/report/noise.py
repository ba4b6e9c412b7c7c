"""Is a figure another one, or the same one measured again? Pure, and the same for the same values.

Three kinds of noise, by what a result holds: values of the same questions on both sides, a median
with its ends over repeated runs, or a standard error. All tests are two-sided and on logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEED = 1
LEVEL = 0.05
"""Of all figures of a comparison together, as likely is a false alarm."""

MIN_PAIRS = 6
"""With fewer, no test can tell: 2 of 2⁵ signs are .0625."""

EXACT_PAIRS = 14
"""Up to so many, all signs are tried."""

DRAWS = 10_000
NULL_DRAWS = 200_000


@dataclass(frozen=True)
class Paired:
    """A value above 0 for each question, by whatever names it."""

    values: Mapping[object, float]


@dataclass(frozen=True)
class Repeats:
    """A median of some runs, above 0, with lowest and highest."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True)
class Estimate:
    """A value above 0 and the standard error of its logarithm."""

    value: float
    error: float


Noise = Paired | Repeats | Estimate


def chance(before: Noise, after: Noise) -> float | None:
    """How likely such a distance is without a change; None if it cannot be told."""
    if isinstance(before, Paired) and isinstance(after, Paired):
        keys = [key for key in before.values if key in after.values]
        return by_signs([math.log(after.values[key] / before.values[key]) for key in keys])
    if isinstance(before, Repeats) and isinstance(after, Repeats):
        return by_ranges(before, after)
    if isinstance(before, Estimate) and isinstance(after, Estimate):
        error = math.hypot(before.error, after.error)
        distance = abs(math.log(after.value / before.value))
        return math.erfc(distance / error / math.sqrt(2)) if error else float(distance == 0)
    return None


def by_signs(differences: Sequence[float]) -> float | None:
    """Permutation test of paired differences: without a change, each sign is as likely.

    None for fewer than `MIN_PAIRS`.
    """
    if len(differences) < MIN_PAIRS:
        return None
    values = np.array(differences)
    observed = abs(values.mean())
    hits = np.abs(_signs(len(values)) @ values) / len(values) >= observed * (1 - 1e-9)
    if len(values) <= EXACT_PAIRS:
        return float(hits.mean())
    return float((1 + hits.sum()) / (1 + DRAWS))


@lru_cache(maxsize=4)
def _signs(count: int) -> NDArray[np.floating[Any]]:
    """All signs of so few numbers, or `DRAWS` of them. -> [choices, count]"""
    if count <= EXACT_PAIRS:
        numbers = np.arange(2**count)
        return 1.0 - 2.0 * ((numbers[:, None] >> np.arange(count)) & 1)
    return 2.0 * np.random.default_rng(SEED).integers(0, 2, (DRAWS, count)) - 1.0


def by_ranges(before: Repeats, after: Repeats) -> float | None:
    """How often the medians of as many normal draws lie so far apart, in units of both ranges.

    None for a single run, or other numbers of runs on both sides.
    """
    if before.runs != after.runs or before.runs < 2:
        return None
    distance = abs(math.log(after.median / before.median))
    ranges = math.log(before.high / before.low) + math.log(after.high / after.low)
    if not ranges:
        return float(distance == 0)
    null = _null_of_ranges(before.runs)
    beyond = len(null) - int(np.searchsorted(null, distance / ranges * (1 - 1e-9)))
    return (1 + beyond) / (1 + len(null))


@cache
def _null_of_ranges(runs: int) -> NDArray[np.float64]:
    """Distances of medians over the sum of ranges, of normal draws alike; sorted."""
    draws = np.random.default_rng(SEED).standard_normal((2, NULL_DRAWS, runs))
    medians, ranges = np.median(draws, axis=2), np.ptp(draws, axis=2)
    found: NDArray[np.float64] = np.sort(np.abs(medians[0] - medians[1]) / ranges.sum(axis=0))
    return found


def holm(chances: Sequence[float]) -> list[float]:
    """Each chance for all comparisons together (Holm, 1979): below `LEVEL`, something changed."""
    order = sorted(range(len(chances)), key=lambda place: chances[place])
    adjusted, highest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        adjusted[place] = highest
    return adjusted


def interval(rows: Sequence[tuple[float, float]], level: float = 1 - LEVEL) -> tuple[float, float]:
    """Of mean(first) / mean(second) in `level` of draws of rows with replacement (bootstrap)."""
    values = np.array(rows)
    draws = np.random.default_rng(SEED).integers(0, len(values), (DRAWS, len(values)))
    means = values[draws].mean(axis=1)
    low, high = np.quantile(means[:, 0] / means[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
