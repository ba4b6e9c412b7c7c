"""A replica whose texts and step times are drawn from laws that are known: for the controller.

P(a guess is accepted) by kind of text is what trained drafts were measured at (docs/results/
training.md): the whole small model's, its first four layers' at T = 0, its first two layers' at
T = 1. Each text has a chance of its own around that of its kind.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel, Provenance
from s2d_ray.core.goodput import Candidate, DraftLevel, draft_s, goodput, round_s
from s2d_ray.engine.controller import Change, Choice, Controller
from s2d_ray.engine.live_costs import StepWork

ACCEPTED = {"code": 0.69, "prose": 0.41, "translation": 0.29}
LENGTHS = (0, 1, 2, 4, 8)
TOKENS_PER_TEXT = 48

COSTS = CostModel(
    draft_s={(4, 1): 0.0048, (4, 4): 0.006, (4, 8): 0.008},
    forward_s={
        **{(1, 1): 0.030, (1, 3): 0.033, (1, 9): 0.045},
        **{(4, 1): 0.040, (4, 3): 0.058, (4, 9): 0.110},
        **{(8, 1): 0.052, (8, 3): 0.090, (8, 9): 0.200},
    },
    prefill_s={64: 0.2},
    hop_s=0.001,
    origin=Provenance("simulated", "none", "2026-11-28"),
)


@cache
def candidates(kind: str) -> tuple[Candidate, ...]:
    """Chains of several lengths as calibration on texts of this kind would have them."""
    return tuple(_candidate(length, ACCEPTED[kind]) for length in LENGTHS)


def _candidate(length: int, chance: float) -> Candidate:
    level = DraftLevel({4: 1.0}, {4: 1.0})
    return Candidate(
        Plan((), 0.0, length, min_match=0),
        1.0 + sum(chance**depth for depth in range(1, length + 1)),
        {length: 1.0},
        (level,) * length,
        rounds=1_000,
    )


def best(kind: str, num_rows: int) -> Candidate:
    """The plan that calibration on such texts finds best."""
    return max(candidates(kind), key=lambda each: goodput(each, COSTS, num_rows))


@cache
def _parts(length: int, rows: int) -> tuple[float, float]:
    """Seconds of a round: the draft's part and the forward's."""
    candidate = _candidate(length, 0.5)
    call_s = draft_s(candidate, COSTS, rows)
    return call_s, round_s(candidate, COSTS, rows) - call_s


@dataclass
class Text:
    """One text in a slot: its chance, and the tokens it has still to write."""

    chance: float
    left: int = TOKENS_PER_TEXT


@dataclass
class Arms:
    """A full replica: each text that ends makes room for the next one.

    task: the class that requests name. kind: of text they really are. fixed: a plan for all rows
    in place of a controller. slower: the draft, as a multiple of the costs. busy: share of asked
    rows that it puts off.
    """

    seed: int
    task: str = "code"
    kind: str = "code"
    fixed: Candidate | None = None
    num_rows: int = 1
    slower: float = 1.0
    busy: float = 0.0
    frozen: bool = False
    seconds: float = 0.0
    num_tokens: int = 0
    num_ended: int = 0
    used: Counter[int] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.controller = Controller(
            {self.task: candidates(self.task)}, COSTS, random.Random(self.seed + 1)
        )
        self.texts: list[Text] = []

    def serve(self, num_texts: int) -> float:
        """Until so many more texts have ended. -> tokens per second meanwhile."""
        until, tokens, seconds = self.num_ended + num_texts, self.num_tokens, self.seconds
        while self.num_ended < until:
            self.step()
        return (self.num_tokens - tokens) / (self.seconds - seconds)

    def run(self, seconds: float) -> None:
        until = self.seconds + seconds
        while self.seconds < until:
            self.step()

    def step(self) -> None:
        while len(self.texts) < self.num_rows:
            chance = min(0.95, max(0.02, self.rng.gauss(ACCEPTED[self.kind], 0.1)))
            self.texts.append(Text(chance))
        del self.texts[self.num_rows :]
        choices = self.controller.begin((self.task,), self.num_rows, frozen=self.frozen)
        self._round(choices[self.task])

    def _round(self, choice: Choice) -> None:
        candidate = self.fixed or choice.candidate
        served = [self.rng.random() >= self.busy for _ in self.texts]
        accepted = [
            self._chain(text.chance, candidate.plan.max_proposal) if ok else 0
            for text, ok in zip(self.texts, served, strict=True)
        ]
        work = self._work(candidate, served)
        seconds = work.call_s + work.forward_s
        self.seconds += seconds
        for text, count in zip(self.texts, accepted, strict=True):
            self.num_tokens += min(1 + count, text.left)
            text.left -= 1 + count
        self.num_ended += sum(text.left <= 0 for text in self.texts)
        self.texts = [text for text in self.texts if text.left > 0]
        self.used[candidate.plan.max_proposal] += 1
        if self.fixed is None:
            self.controller.took(work)
            if any(served):
                self.controller.learn(choice, sum(served), sum(accepted))
            if not self.frozen:
                self.changes += self.controller.decide((self.task,), self.num_rows, seconds)

    def _work(self, candidate: Candidate, served: Sequence[bool]) -> StepWork:
        rows, speculates = self.num_rows, not candidate.is_plain
        call_s, forward_s = _parts(candidate.plan.max_proposal, rows)
        return StepWork(
            rows,
            rows * (1 + candidate.plan.max_proposal),
            call_s * self.slower * self._noise(),
            forward_s * self._noise(),
            (candidate,) * rows if speculates else (),
            rows if speculates else 0,
            sum(served) if speculates else 0,
        )

    def _noise(self) -> float:
        return math.exp(0.3 * self.rng.gauss(0.0, 1.0) - 0.045)

    def _chain(self, chance: float, longest: int) -> int:
        length = 0
        while length < longest and self.rng.random() < chance:
            length += 1
        return length
