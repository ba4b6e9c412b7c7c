"""Whether guesses are accepted as they were, or as calibration said: only told beyond noise.

Guesses of one text are not independent, so requests are what is counted: the variance of a share is
that of a ratio of sums over requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from s2d_ray.advice.records import Usage
from s2d_ray.plan_file import TargetPlans

LEVEL = 0.01
"""Chance of a false warning in a whole report: each of its tests has its part of it."""

FEWEST = 30
"""Requests with guesses that a share needs."""


@dataclass(frozen=True)
class Share:
    """Accepted guesses of all, and its standard error."""

    value: float
    error: float
    requests: int
    guesses: int


@dataclass(frozen=True)
class Drift:
    """A share that differs from what was expected. expected: low and high; equal for one value.

    chance: of a difference like this, or larger, without any drift.
    """

    what: str
    expected: tuple[float, float]
    seen: Share
    chance: float


def share_of(usage: Usage) -> Share | None:
    """None where too few requests had guesses."""
    asked = usage.drafted_tokens > 0
    drafted = usage.drafted_tokens[asked].astype(np.float64)
    accepted = usage.accepted_tokens[asked].astype(np.float64)
    number, guesses = len(drafted), float(drafted.sum())
    if number < FEWEST:
        return None
    value = float(accepted.sum()) / guesses
    squares = float(np.square(accepted - value * drafted).sum())
    error = math.sqrt(squares * number / (number - 1)) / guesses
    return Share(value, error, number, int(guesses))


def between_halves(usage: Usage) -> Drift | None:
    """The younger half of the requests against the older one; None where too few had guesses."""
    asked = usage.where(usage.drafted_tokens > 0)
    younger = np.arange(len(asked)) >= len(asked) // 2
    before, after = share_of(asked.where(~younger)), share_of(asked.where(younger))
    if before is None or after is None:
        return None
    error = math.hypot(before.error, after.error)
    return Drift(
        "the older half",
        (before.value, before.value),
        after,
        _two_sided(after.value - before.value, error),
    )


def against_plans(usage: Usage, plans: TargetPlans) -> Drift | None:
    """The younger half of the requests against the plan file; None where it speculates nowhere.

    Records do not say the class or the plan of a request, so whatever lies between the plans of all
    classes is expected.
    """
    expected = [share for shares in expected_shares(plans) for share in shares]
    younger = usage.where(np.arange(len(usage)) >= len(usage) // 2)
    seen = share_of(younger)
    if seen is None or not expected:
        return None
    low, high = min(expected), max(expected)
    beyond = max(low - seen.value, seen.value - high, 0.0)
    return Drift("the plan file", (low, high), seen, _two_sided(beyond, seen.error))


def expected_shares(plans: TargetPlans) -> list[list[float]]:
    """Accepted guesses of all: by class, of each of its plans that speculate, best first."""
    by_class = (
        [(each.committed - 1) / each.proposed for each in found.kept() if each.proposed > 0]
        for found in plans.classes.values()
    )
    return [shares for shares in by_class if shares]


def warnings_of(found: dict[str, list[Drift]]) -> list[str]:
    """A sentence for each drift beyond noise. found: all tests of a report, by target."""
    number = sum(map(len, found.values()))
    return [
        f"{target}: {drift.seen.value:.1%} of the younger guesses are accepted, "
        f"{_worded(drift.expected)} in {drift.what} (chance of that without drift "
        f"{drift.chance:.1g}); run `s2d calibrate`, or train the draft on this traffic"
        for target, drifts in found.items()
        for drift in drifts
        if drift.chance < LEVEL / number
    ]


def _worded(expected: tuple[float, float]) -> str:
    low, high = expected
    return f"{low:.1%}" if low == high else f"{low:.1%} to {high:.1%}"


def _two_sided(difference: float, error: float) -> float:
    if difference == 0:
        return 1.0
    if error == 0:
        return 0.0
    return 2 * (1 - NormalDist().cdf(abs(difference) / error))
