"""P(a guess is accepted), learned from guesses whose confidence and fate are known.

One isotonic map per who guessed, temperature and depth in the proposal. Stdlib only.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

COLD = 0.0
"""The temperature of greedy texts."""

DEPTHS = (0, 1, 3)
"""First depths of the classes of depths: the first guess, the next two, all behind."""

LIKELY_ERROR = 1.96
"""Standard errors on either side of a 95 % interval."""


@dataclass(frozen=True)
class Sample:
    """A guess. weight: how many like it this one stands for."""

    confidence: float
    accepted: bool
    weight: float = 1.0


@dataclass(frozen=True)
class Knot:
    """Guesses from this confidence on, up to the next knot: P(accepted) and its 95 % interval."""

    confidence: float
    chance: float
    low: float
    high: float
    count: float


@dataclass(frozen=True)
class CalibrationMap:
    """A rising step function from confidence to P(accepted).

    drafted_by: layers of the sub-model, 0 for tier 0. depth: first of its class, see `DEPTHS`.
    error: mean distance of P and what was accepted on texts that the map was not made from; raw:
    the same distance of the bare confidence.
    """

    drafted_by: int
    temperature: float
    depth: int
    knots: tuple[Knot, ...]
    error: float | None = None
    raw: float | None = None

    def at(self, confidence: float) -> Knot:
        """What is known of guesses of such a confidence."""
        return self.knots[max(0, bisect_right(self._places, confidence) - 1)]

    @cached_property
    def _places(self) -> list[float]:
        return [knot.confidence for knot in self.knots]

    def threshold_for(self, chance: float) -> float:
        """The confidence below which P(accepted) is less than `chance`; 1 if it always is."""
        return next((k.confidence for k in self.knots if k.chance >= chance), 1.0)


@dataclass(frozen=True)
class AcceptanceModel:
    """The maps of one target and class of task."""

    maps: tuple[CalibrationMap, ...]

    def find(self, drafted_by: int, temperature: float, depth: int) -> CalibrationMap | None:
        """The map of the nearest temperature and of this depth, or of the next smaller one."""
        mine = [each for each in self.maps if each.drafted_by == drafted_by]
        if not mine:
            return None
        nearest = min((each.temperature for each in mine), key=lambda t: abs(t - temperature))
        known = [each for each in mine if each.temperature == nearest]
        below = [each for each in known if each.depth <= depth]
        return max(below or known, key=lambda each: each.depth if below else -each.depth)

    def chance(self, drafted_by: int, confidence: float, temperature: float, depth: int) -> float:
        """P(accepted | all guesses before it were); the bare confidence where nothing is known."""
        found = self.find(drafted_by, temperature, depth)
        return confidence if found is None else found.at(confidence).chance


def isotonic(samples: Iterable[Sample]) -> tuple[Knot, ...]:
    """The rising step function nearest to the samples in squared distance; none without samples.

    Pool adjacent violators: neighbours whose means fall are merged until none do. Source: Ayer,
    Brunk, Ewing, Reid, Silverman, 1955.
    """
    pools: list[tuple[float, float, float]] = []  # first confidence, weight, accepted weight
    for confidence, alike in groupby(
        sorted(samples, key=lambda each: each.confidence), key=lambda each: each.confidence
    ):
        found = list(alike)
        weight = sum(each.weight for each in found)
        pool = (confidence, weight, sum(each.weight for each in found if each.accepted))
        while pools and _mean(pools[-1]) >= _mean(pool):
            first, weight, accepted = pools.pop()
            pool = (first, weight + pool[1], accepted + pool[2])
        pools.append(pool)
    return tuple(_knot(pool) for pool in pools)


def _mean(pool: tuple[float, float, float]) -> float:
    return pool[2] / pool[1]


def _knot(pool: tuple[float, float, float]) -> Knot:
    chance = _mean(pool)
    low, high = wilson(chance, pool[1])
    return Knot(pool[0], chance, low, high, pool[1])


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share that was seen among so many. Source: Wilson, 1927."""
    square = LIKELY_ERROR**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    spread = math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    half = LIKELY_ERROR * spread / (1 + square / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_error(pairs: Sequence[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error of (P, accepted), over bins of equal width."""
    total = 0.0
    for number in range(bins):
        own = [pair for pair in pairs if min(bins - 1, int(pair[0] * bins)) == number]
        total += abs(sum(chance for chance, _ in own) - sum(accepted for _, accepted in own))
    return total / len(pairs)
