"""A replica whose texts and step times are drawn from laws that are known: for the controller.

`python -m tests.arms SEEDS` prints what docs/control.md tells.

Texts come from one of two worlds. In `Law`, P(a guess is accepted) by kind of text is what trained
drafts were measured at (docs/results/training.md): the whole small model's, its first four layers'
at T = 0, its first two layers' at T = 1; each text has a chance of its own around that of its kind.
In `tests.recorded.Recorded`, texts are real ones of SmolLM2, and guesses those of its draft.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import mean, median
from typing import Protocol

from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel, Provenance
from s2d_ray.core.goodput import PLAIN, Candidate, DraftLevel, draft_s, goodput, round_s
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


class Text(Protocol):
    """One text in a slot."""

    @property
    def is_over(self) -> bool:
        """Whether all of it is written."""

    def round(self, plan: Plan) -> int:
        """One round under a plan. -> the accepted guesses"""


class World(Protocol):
    """Where texts come from, and what plans are worth there."""

    @property
    def costs(self) -> CostModel:
        """As calibrated."""

    def candidates(self, kind: str) -> Sequence[Candidate]:
        """What calibration on texts of this kind keeps."""

    def known(self, plan: Plan, kind: str) -> Candidate:
        """What a plan does on texts of this kind."""

    def text(self, kind: str, rng: random.Random) -> Text:
        """Another text."""


@dataclass
class Drawn:
    """A text by the law: its chance, and the tokens it has still to write."""

    chance: float
    rng: random.Random
    left: int = TOKENS_PER_TEXT

    @property
    def is_over(self) -> bool:
        return self.left <= 0

    def round(self, plan: Plan) -> int:
        length = 0
        while length < plan.max_proposal and self.rng.random() < self.chance:
            length += 1
        self.left -= 1 + length
        return length


class Law:
    """Chains of several lengths; a guess is right with the chance of its text."""

    costs = COSTS

    def candidates(self, kind: str) -> Sequence[Candidate]:
        return candidates(kind)

    def known(self, plan: Plan, kind: str) -> Candidate:
        return _candidate(plan.max_proposal, ACCEPTED[kind])

    def text(self, kind: str, rng: random.Random) -> Text:
        return Drawn(min(0.95, max(0.02, rng.gauss(ACCEPTED[kind], 0.1))), rng)


LAW = Law()


@cache
def candidates(kind: str) -> tuple[Candidate, ...]:
    """Chains of several lengths as calibration on texts of this kind would have them."""
    return tuple(_candidate(length, ACCEPTED[kind]) for length in LENGTHS)


@cache
def _candidate(length: int, chance: float) -> Candidate:
    level = DraftLevel({4: 1.0}, {4: 1.0})
    return Candidate(
        Plan((), 0.0, length, min_match=0),
        1.0 + sum(chance**depth for depth in range(1, length + 1)),
        {length: 1.0},
        (level,) * length,
        rounds=1_000,
    )


def best(kind: str, num_rows: int, world: World = LAW) -> Candidate:
    """The plan that calibration on such texts finds best."""
    return max(world.candidates(kind), key=lambda each: goodput(each, world.costs, num_rows))


@dataclass
class Arms:
    """A full replica: each text that ends makes room for the next one.

    task: the class that requests name; None: the one they are of. kind: of text they really are.
    fixed: a plan for all rows in place of a controller. slower: the draft, as a multiple of the
    costs. busy: share of asked rows that it puts off.
    """

    seed: int
    task: str | None = "code"
    kind: str = "code"
    fixed: Candidate | None = None
    num_rows: int = 1
    slower: float = 1.0
    busy: float = 0.0
    frozen: bool = False
    world: World = LAW
    seconds: float = 0.0
    num_tokens: int = 0
    num_ended: int = 0
    used: Counter[Plan] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.controller = Controller(
            {
                task: self.world.candidates(task)
                for task in ([self.task] if self.task else ACCEPTED)
            },
            self.world.costs,
            random.Random(self.seed + 1),
        )
        self.texts: list[Text] = []

    @property
    def named(self) -> str:
        """The class that requests name now."""
        return self.task or self.kind

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
            self.texts.append(self.world.text(self.kind, self.rng))
        del self.texts[self.num_rows :]
        choices = self.controller.begin((self.named,), self.num_rows, frozen=self.frozen)
        self._round(choices[self.named])

    def _round(self, choice: Choice) -> None:
        candidate = self.fixed or choice.candidate
        served = [self.rng.random() >= self.busy for _ in self.texts]
        accepted = [
            text.round(candidate.plan if ok else PLAIN.plan)
            for text, ok in zip(self.texts, served, strict=True)
        ]
        work = self._work(candidate, served)
        seconds = work.call_s + work.forward_s
        self.seconds += seconds
        self.num_tokens += self.num_rows + sum(accepted)
        self.num_ended += sum(text.is_over for text in self.texts)
        self.texts = [text for text in self.texts if not text.is_over]
        self.used[candidate.plan] += 1
        if self.fixed is None:
            self.controller.took(work)
            if any(served):
                self.controller.learn(choice, sum(served), sum(accepted))
            if not self.frozen:
                self.changes += self.controller.decide((self.named,), self.num_rows, seconds)

    def _work(self, candidate: Candidate, served: Sequence[bool]) -> StepWork:
        rows, speculates = self.num_rows, not candidate.is_plain
        truth = self.world.known(candidate.plan, self.kind)
        call_s = draft_s(truth, self.world.costs, rows)
        forward_s = round_s(truth, self.world.costs, rows) - call_s
        return StepWork(
            rows,
            round(rows * (1 + truth.proposed)),
            call_s * self.slower * self._noise(),
            forward_s * self._noise(),
            (candidate,) * rows if speculates else (),
            rows if speculates else 0,
            sum(served) if speculates else 0,
        )

    def _noise(self) -> float:
        return math.exp(0.3 * self.rng.gauss(0.0, 1.0) - 0.045)


def share_of_best(arms: Arms) -> float:
    """Goodput of the plans that were used, as a share of the best one's, by the texts' law."""
    costs, tokens, seconds = arms.world.costs, 0.0, 0.0
    for plan, steps in arms.used.items():
        truth = arms.world.known(plan, arms.kind)
        tokens += steps * truth.committed
        seconds += steps * truth.committed / goodput(truth, costs, arms.num_rows)
    most = goodput(best(arms.kind, arms.num_rows, arms.world), costs, arms.num_rows)
    return tokens / seconds / most


def after_shifts(
    seed: int, num_rows: int, world: World = LAW, task: str | None = "code"
) -> list[float]:
    """Requests become prose, then translation, 100 of each kind, whatever they are said to be.

    -> `share_of_best` over the last 50 of each.
    """
    arms, shares = Arms(seed, task, num_rows=num_rows, world=world), []
    for kind in ("code", "prose", "translation"):
        arms.kind = kind
        arms.serve(50)
        arms.used.clear()
        arms.serve(50)
        shares.append(share_of_best(arms))
    return shares


def changes_when_steady(seed: int, kind: str, num_rows: int) -> int:
    """Of the plan, in 100 requests."""
    arms = Arms(seed, kind, kind, num_rows=num_rows)
    arms.serve(100)
    return len(arms.changes)


def seconds_until_plain(seed: int, num_rows: int, *, slower: float, busy: float) -> float:
    """Of steps, from when the draft is overloaded to when it is not asked any more."""
    arms = Arms(seed, num_rows=num_rows)
    arms.run(5.0)
    before = arms.seconds
    arms.slower, arms.busy = slower, busy
    plans = arms.controller.plans
    load = 1 << num_rows.bit_length()
    while not plans()[arms.named][load].candidate.is_plain:
        arms.step()
    return arms.seconds - before


def figures(seeds: Sequence[int]) -> str:
    """What is told in docs/control.md."""
    shares = [share for seed in seeds for rows in (1, 4) for share in after_shifts(seed, rows)]
    changes = [
        changes_when_steady(seed, kind, rows)
        for seed in seeds
        for kind in ACCEPTED
        for rows in (1, 2, 4, 8)
    ]
    lines = [
        f"share of the best plan, requests 51-100 behind a shift: least {min(shares):.3f}, "
        f"median {median(shares):.3f} of {len(shares)}",
        f"changes in 100 steady requests: most {max(changes)}, mean {mean(changes):.2f} "
        f"of {len(changes)}",
    ]
    for name, slower, busy in (("six times slower", 6.0, 0.0), ("always busy", 1.0, 1.0)):
        for rows in (1, 4):
            seconds = [seconds_until_plain(seed, rows, slower=slower, busy=busy) for seed in seeds]
            lines.append(
                f"draft {name}, {rows} texts: plain after {median(seconds):.2f} s, "
                f"at most {max(seconds):.2f}"
            )
    return "\n".join(lines)


def on_real_texts(seeds: Sequence[int], world: World) -> str:
    """The same shifts, of texts that say what they are, and of texts that all claim to be code."""
    lines = []
    for task, said in ((None, "named"), ("code", "not named")):
        by_kind = zip(
            *(after_shifts(seed, rows, world, task) for seed in seeds for rows in (1, 4)),
            strict=True,
        )
        told = [
            f"{kind} {min(shares):.3f} to {max(shares):.3f}"
            for kind, shares in zip(ACCEPTED, by_kind, strict=True)
        ]
        lines.append(f"real texts, class {said}: {', '.join(told)}")
    return "\n".join(lines)


if __name__ == "__main__":
    from tests.recorded import recorded  # loads the models' libraries

    print(figures(range(int(sys.argv[1]))))
    print(on_real_texts(range(int(sys.argv[1])), recorded()))
