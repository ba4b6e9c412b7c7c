"""Which plan the rows of `mode: auto` follow now: one of those kept for their class of task.

One controller per target replica, its state its own. It starts from the plan that calibration
found best, and goes by what is accepted (`acceptance.py`) and what work costs (`live_costs.py`)
since. Classes and loads are decided apart, so that a row more or less changes the plan in the next
step, without a new decision. A decision takes the longer the less it promises. Pure: it knows no
clock but the seconds of steps.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel
from s2d_ray.core.goodput import Candidate
from s2d_ray.engine.acceptance import Acceptance
from s2d_ray.engine.control_group import load_of
from s2d_ray.engine.live_costs import LiveCosts, StepWork

LOOK_EVERY_S = 0.05
"""Seconds of steps between two looks at the candidates of a class."""

LONGEST_LOOK_S = 0.25
"""One long step counts as no more."""

MARGIN = math.log(1.03)
"""A plan must be so much better to be worth a change."""

ENOUGH = 0.05
"""Of the gain beyond the margin (on a logarithmic scale) times the seconds that it has lasted: a
plan twice as good is taken after 0.1 s, one that is a tenth better after 0.8 s."""

CALMING, CALM_AFTER_S = 4.0, 60.0
"""A change asks for so many times the evidence of the one before; that fades in such time."""

EXPLORED, EXPLORED_FROM_PLAIN = 0.02, 0.05
"""Share of steps in which another plan is tried. Plain decoding teaches nothing of other plans."""

TRIAL, PATIENCE = 8, 64
"""Steps of one trial that teach something, and all steps after which it is given up: the draft may
have to read the texts first."""

PROMISING = 0.7
"""A plan expected to be worse than so many times the best one is not tried."""


@dataclass(frozen=True)
class Choice:
    """A plan in force. index: of the candidate in its class. why: for reply, log and health."""

    task: str
    index: int
    candidate: Candidate
    why: str


@dataclass(frozen=True)
class Change:
    """Another plan came into force for a class and a load. load: it holds below so many rows."""

    task: str
    load: int
    before: Plan
    after: Plan
    why: str

    def __str__(self) -> str:
        return (
            f"class {self.task}, fewer than {self.load} texts: {words(self.before)} → "
            f"{words(self.after)}; {self.why}"
        )


@dataclass
class _Entry:
    """The plan of one load. evidence: for another one, see `ENOUGH`. num_changes: they fade."""

    choice: Choice
    evidence: float = 0.0
    num_changes: float = 0.0

    def collect(self, gain: float, seconds: float) -> bool:
        """More evidence: another plan is so much better, for so long. -> whether it is enough."""
        self.num_changes *= math.exp(-seconds / CALM_AFTER_S)
        self.evidence = max(0.0, self.evidence + gain * seconds)
        return gain > 0 and self.evidence >= ENOUGH * CALMING**self.num_changes


@dataclass
class _Class:
    """One class of task. trial: the candidate that is tried now. trial_steps, trial_patience: more
    steps of it that teach something, and more steps at all."""

    candidates: Sequence[Candidate]
    acceptance: Acceptance
    entries: dict[int, _Entry] = field(default_factory=dict)
    since_look_s: float = 0.0
    trial: int | None = None
    trial_steps: int = 0
    trial_patience: int = 0


class Controller:
    """Plans of one replica's target.

    candidates: by class, plain decoding among them; never empty. A task without a class of its own
    goes by the first. costs: as calibrated.
    """

    def __init__(
        self,
        candidates: Mapping[str, Sequence[Candidate]],
        costs: CostModel,
        rng: random.Random,
    ) -> None:
        self._random = rng
        self._classes = {task: _Class(kept, Acceptance(kept)) for task, kept in candidates.items()}
        self.costs = LiveCosts(costs)

    def class_of(self, task: str) -> str:
        """The class that serves a task."""
        return task if task in self._classes else next(iter(self._classes))

    def begin(self, tasks: Sequence[str], num_rows: int, *, frozen: bool) -> dict[str, Choice]:
        """The plans of the next step, for the classes of its rows. frozen: nothing is tried."""
        return {task: self._begin(task, num_rows, frozen) for task in tasks}

    def learn(self, choice: Choice, rounds: int, accepted: int) -> None:
        """What became of the rounds of one step whose plan was `choice`, and that were served."""
        mine = self._classes[choice.task]
        mine.acceptance.learn(choice.index, rounds, accepted)
        if mine.trial == choice.index:
            mine.trial_steps -= 1

    def took(self, work: StepWork) -> None:
        """What the step's work took."""
        self.costs.take(work)

    def decide(self, tasks: Sequence[str], num_rows: int, seconds: float) -> list[Change]:
        """Behind each step: which plans change by what is known now. seconds: of that step."""
        return [
            change
            for task in tasks
            if (change := self._decide(task, num_rows, seconds)) is not None
        ]

    def plans(self) -> dict[str, dict[int, Choice]]:
        """What is in force, by class and load."""
        return {
            task: {load: entry.choice for load, entry in sorted(dict(each.entries).items())}
            for task, each in self._classes.items()
        }

    def _begin(self, task: str, num_rows: int, frozen: bool) -> Choice:
        mine, load = self._classes[task], load_of(num_rows)
        if load not in mine.entries:
            middle = max(1, 3 * load // 4)  # of the loads that are decided alike
            best, _ = self._best(mine, middle)
            mine.entries[load] = _Entry(self._choice(task, best, middle))
        choice = mine.entries[load].choice
        if frozen:
            mine.trial = None
            return choice
        share = EXPLORED_FROM_PLAIN if choice.candidate.is_plain else EXPLORED
        if mine.trial is None and self._random.random() < share / TRIAL:
            mine.trial = self._to_try(mine, choice.index, num_rows)
            mine.trial_steps, mine.trial_patience = TRIAL, PATIENCE
        mine.trial_patience -= 1
        if mine.trial_steps <= 0 or mine.trial_patience < 0:
            mine.trial = None
        if mine.trial is None:
            return choice
        why = f"tried for some steps; else {choice.why}"
        return Choice(task, mine.trial, mine.candidates[mine.trial], why)

    def _to_try(self, mine: _Class, current: int, num_rows: int) -> int | None:
        """Another candidate that may be as good, or the best one that speculates: whether it would
        pay is learned from it alone."""
        worth = [self._goodput(mine, index, num_rows) for index in range(len(mine.candidates))]
        others = [
            index
            for index, each in enumerate(mine.candidates)
            if index != current and not each.is_plain
        ]
        if not others:
            return None
        best = max(others, key=lambda index: worth[index])
        promising = [index for index in others if worth[index] >= PROMISING * max(worth)]
        return self._random.choice(sorted({best, *promising}))

    def _decide(self, task: str, num_rows: int, seconds: float) -> Change | None:
        mine, load = self._classes[task], load_of(num_rows)
        mine.since_look_s += min(seconds, LONGEST_LOOK_S)
        entry = mine.entries.get(load)
        if mine.since_look_s < LOOK_EVERY_S or entry is None:
            return None
        passed_s, mine.since_look_s = mine.since_look_s, 0.0
        best, worth = self._best(mine, num_rows)
        gain = math.log(worth / self._goodput(mine, entry.choice.index, num_rows)) - MARGIN
        if not entry.collect(gain, passed_s):
            return None
        before = entry.choice.candidate.plan
        choice = self._choice(task, best, num_rows)
        mine.entries[load] = _Entry(choice, num_changes=entry.num_changes + 1.0)
        why = (
            f"{math.exp(gain + MARGIN):.2f} times as good at {num_rows} texts: draft × "
            f"{self.costs.draft:.2f}, forward × {self.costs.forward:.2f}, served "
            f"{self.costs.served:.2f}, acceptance {mine.acceptance.shift:+.2f}"
        )
        return Change(task, load, before, mine.candidates[best].plan, why)

    def _choice(self, task: str, index: int, num_rows: int) -> Choice:
        mine = self._classes[task]
        worth = self._goodput(mine, index, num_rows)
        plain = [self._goodput(mine, i, num_rows) for i in self._plain(mine)]
        candidate = mine.candidates[index]
        over = f", {worth / max(plain):.2f} times plain decoding" if plain else ""
        why = f"class {task}, fewer than {load_of(num_rows)} texts: {words(candidate.plan)}{over}"
        return Choice(task, index, candidate, why)

    @staticmethod
    def _plain(mine: _Class) -> list[int]:
        return [index for index, each in enumerate(mine.candidates) if each.is_plain]

    def _best(self, mine: _Class, num_rows: int) -> tuple[int, float]:
        """The candidate of the highest goodput, of equal ones the first, and that goodput."""
        worth = [self._goodput(mine, index, num_rows) for index in range(len(mine.candidates))]
        best = max(range(len(worth)), key=lambda index: worth[index])
        return best, worth[best]

    def _goodput(self, mine: _Class, index: int, num_rows: int) -> float:
        committed = mine.acceptance.committed(index)
        return self.costs.goodput(mine.candidates[index], committed, num_rows)


def words(plan: Plan) -> str:
    """A plan in a log line."""
    if plan.max_proposal == 0:
        return "plain decoding" if plan.is_plain else f"tier 0 alone, up to {plan.max_lookup}"
    thresholds = "/".join(f"{threshold:g}" for threshold in plan.exit_thresholds)
    width = f", {plan.tree_width} wide" if plan.tree_width > 1 else ""
    return f"up to {plan.max_proposal} at {thresholds or '-'}, stop {plan.stop_threshold:g}{width}"
