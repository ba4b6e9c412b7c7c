"""What a round commits now, for each plan of one class of task: calibration, then experience.

How much better or worse guesses do than calibrated is one number for the class, in log-odds, and a
smaller one for each plan: what is seen under a plan tells of the others too. Both are estimated as
a Kalman filter does: an observation counts the more the less is known, and the world drifts. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from s2d_ray.core.goodput import Candidate

COMMON_VARIANCE, OWN_VARIANCE = 0.5, 0.05
"""Of both numbers before anything is seen, and at most."""

DRIFT, OWN_DRIFT = 1e-4, 1e-6
"""Variance that a round adds, seen or not."""

SPREAD = 3.0
"""Variance of accepted guesses, as a multiple of that of independent ones: rounds of one text are
alike, and a chain ends at its first refusal."""

LARGEST_ERROR = 4.0
SMALLEST = 1e-3
"""Share of accepted guesses, and its distance from 1."""


@dataclass
class _Shift:
    """An estimate and its variance."""

    variance: float
    most: float
    value: float = 0.0

    def move(self, error: float, total: float) -> None:
        """Take the part of an error that falls to this number. total: variance of the error."""
        gain = self.variance / total
        self.value += gain * error
        self.variance *= 1.0 - gain

    def drift(self, variance: float) -> None:
        self.variance = min(self.most, self.variance + variance)


class Acceptance:
    """The candidates of one class, by their index."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = candidates
        self._calibrated = [
            0.0 if each.is_plain else _odds((each.committed - 1.0) / each.plan.longest)
            for each in candidates
        ]
        self._common = _Shift(COMMON_VARIANCE, COMMON_VARIANCE)
        self._own = [_Shift(OWN_VARIANCE, OWN_VARIANCE) for _ in candidates]

    @property
    def shift(self) -> float:
        """How much better guesses do than calibrated, in log-odds, whatever the plan."""
        return self._common.value

    def learn(self, index: int, rounds: int, accepted: int) -> None:
        """Rounds under a candidate, and the guesses that were accepted in them.

        A plain one tells nothing, but what is known grows old meanwhile.
        """
        candidate, own = self._candidates[index], self._own[index]
        if not candidate.is_plain:
            longest = candidate.plan.longest
            share = self._share(index)
            slope = longest * share * (1.0 - share)  # of accepted guesses a round by log-odds
            error = (accepted / rounds - longest * share) / slope
            error = min(LARGEST_ERROR, max(-LARGEST_ERROR, error))
            total = self._common.variance + own.variance + SPREAD / (slope * rounds)
            self._common.move(error, total)
            own.move(error, total)
        self._common.drift(DRIFT * rounds)
        own.drift(OWN_DRIFT * rounds)

    def committed(self, index: int) -> float:
        """Tokens that a round under a candidate is expected to commit."""
        candidate = self._candidates[index]
        if candidate.is_plain:
            return 1.0
        return 1.0 + candidate.plan.longest * self._share(index)

    def _share(self, index: int) -> float:
        """Guesses that are accepted, of all that the plan may make in a round.

        A shift of its log-odds fits plans of other lengths nearly as well.
        """
        odds = self._calibrated[index] + self._common.value + self._own[index].value
        share = 1.0 / (1.0 + math.exp(-odds))
        return min(1.0 - SMALLEST, max(SMALLEST, share))


def _odds(share: float) -> float:
    share = min(1.0 - SMALLEST, max(SMALLEST, share))
    return math.log(share / (1.0 - share))
