"""What work costs now: the measured costs of the plan file, corrected by the steps just timed.

Neighbours on the machine, other targets at the draft, and a clock that was slower that day change
them. Time is counted in seconds of steps: while nothing is timed, nothing is forgotten. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from s2d_ray.core.cost_model import CostModel
from s2d_ray.core.goodput import Candidate, draft_s, round_s

DRAFT_MEMORY_S = 0.12
"""Of what the draft takes: it is shared, and its load changes within a second."""

FORWARD_MEMORY_S = 5.0

DRAFT_PRIOR_S, FORWARD_PRIOR_S = 0.005, 0.5
"""Seconds of work that the measured costs count for: few steps of the draft, some forwards."""

ROWS_MEMORY = 6.0
"""Of the share of rows that the draft serves, in rows."""

LONGEST = 8.0
"""A call or forward that takes longer than so many times what was expected counts as that: one
stall is no load."""


class Ratio:
    """How much of something there lately was, as a multiple of what was expected."""

    def __init__(self, memory: float, prior: float) -> None:
        """memory: expected or seen amount after which an observation has faded to 1/e. prior:
        amount that `value` takes as already seen."""
        self._memory = memory
        self._prior = prior
        self._seen = 0.0
        self._expected = 0.0

    def take(self, seen: float, expected: float) -> None:
        """One more observation."""
        seen = min(seen, LONGEST * expected)
        keep = math.exp(-max(seen, expected) / self._memory)
        self._seen = keep * self._seen + seen
        self._expected = keep * self._expected + expected

    def value(self, prior: float = 1.0) -> float:
        """The multiple; `prior` as long as nothing was seen."""
        return (self._seen + self._prior * prior) / (self._expected + self._prior)


@dataclass(frozen=True)
class StepWork:
    """What a step did, and how long it took.

    texts: rows of the batch that decode. tokens: rows of the forward. drafted: one candidate for
    each text that could ask the draft. asked, answered: texts that the draft was asked about and
    has read, and those of them that it served.
    """

    texts: int
    tokens: int
    call_s: float
    forward_s: float
    drafted: Sequence[Candidate] = ()
    asked: int = 0
    answered: int = 0


class LiveCosts:
    """Seconds of a round, as of now."""

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self._draft = Ratio(DRAFT_MEMORY_S, DRAFT_PRIOR_S)
        self._forward = Ratio(FORWARD_MEMORY_S, FORWARD_PRIOR_S)
        self._by_kind = {kind: Ratio(FORWARD_MEMORY_S, FORWARD_PRIOR_S) for kind in (False, True)}
        self._served = Ratio(ROWS_MEMORY, 1.0)
        self._known: dict[tuple[int, int], tuple[Candidate, float, float]] = {}
        self._forward_s = cache(costs.forward)

    @property
    def draft(self) -> float:
        """Time of the draft's part, as a multiple of the measured one."""
        return self._draft.value()

    @property
    def forward(self) -> float:
        """Time of forwards, as a multiple of the measured one."""
        return self._forward.value()

    @property
    def served(self) -> float:
        """Share of asked rows that the draft serves, and does not put off."""
        return self._served.value()

    def take(self, work: StepWork) -> None:
        """A step without prompt tokens."""
        if work.drafted:
            rows = len(work.drafted)
            parts = [self._parts(each, rows)[0] for each in work.drafted]
            self._draft.take(work.call_s, sum(parts) / rows)
        if work.asked:
            self._served.take(work.answered, work.asked)
        expected_s = self._forward_s(work.texts, work.tokens / work.texts)
        self._forward.take(work.forward_s, expected_s)
        self._by_kind[work.tokens > work.texts].take(work.forward_s, expected_s)

    def goodput(self, candidate: Candidate, committed: float, rows: int) -> float:
        """Committed tokens per second of so many texts. committed: what a round is now expected to
        commit where the draft serves it."""
        draft, forward = self._parts(candidate, rows)
        kind = self._by_kind[not candidate.is_plain].value(self.forward)
        seconds = self.draft * draft + kind * forward
        return rows * (1.0 + self.served * (committed - 1.0)) / seconds

    def _parts(self, candidate: Candidate, rows: int) -> tuple[float, float]:
        """Measured seconds of a round: the draft's part, and the forward's."""
        key = id(candidate), rows
        if key not in self._known:
            draft = draft_s(candidate, self._costs, rows)
            forward = round_s(candidate, self._costs, rows) - draft
            self._known[key] = candidate, draft, forward  # kept, so that its id stays its own
        return self._known[key][1:]
