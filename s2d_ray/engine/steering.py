"""Between a target's batch and what decides on speculation: plans into rows, outcomes back.

Before a round it gives each row of `mode: auto` its plan, after it the controller and the control
group learn what came of it. Nothing here changes a text: a plan only says what is guessed. No
model, no clock and no Ray; the target's loop tells it how long things took.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from s2d_ray.core.calibration import AcceptanceModel
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.control_group import ControlGroup
from s2d_ray.engine.controller import Choice, Controller
from s2d_ray.engine.guesses import Guesses
from s2d_ray.engine.live_costs import StepWork
from s2d_ray.engine.messages import GenerateRequest, Mode
from s2d_ray.engine.protocol import RowStatus
from s2d_ray.engine.sequence import Sequence
from s2d_ray.engine.step import Round, Step

logger = logging.getLogger(__name__)

GETTING_READY = (RowStatus.NEEDS, RowStatus.WARMING)
"""The draft takes a text in: that comes once for each, or after a pause, and is no load."""


@dataclass(frozen=True)
class Settings:
    """What an operator sets, live.

    frozen: plans stay as they are, and nothing is tried or measured. share: of steps without
    speculation, by which its benefit is measured; 0: none, and nothing goes off by itself.
    """

    frozen: bool = False
    share: float = 0.0


@dataclass(frozen=True)
class Times:
    """Seconds of one round: of the draft's call, of the forward and its draws, and of all."""

    call_s: float
    forward_s: float
    whole_s: float


@dataclass(frozen=True)
class _Now:
    """What was decided for the round that runs.

    chosen: by class. can_ask: whether the draft could be asked. is_measure: whether the round
    tells what speculation is worth.
    """

    num_rows: int = 0
    chosen: Mapping[str, Choice] = field(default_factory=dict)
    can_ask: bool = False
    is_measure: bool = False


class Steering:
    """Of one replica. Without a controller, rows follow the plans of their requests.

    `take`, `follow` and `state` may be called from any thread, the rest from the loop's.
    """

    def __init__(
        self,
        settings: Settings = Settings(),
        seed: int = 0,
        report: Callable[[str], None] = logger.info,
    ) -> None:
        """report: takes a line for each change of a plan, and each time speculation goes on or
        off."""
        self._settings = settings
        self._report = report
        self._wanted: Controller | None = None
        self._controller: Controller | None = None
        self._group = ControlGroup(settings.share, random.Random(seed))
        self._now = _Now()
        self.guesses = Guesses()
        self.counters: Counter[str] = Counter()

    def take(self, settings: Settings) -> None:
        """Go by these settings from the next round on."""
        self._settings = settings

    def follow(
        self,
        controller: Controller | None,
        acceptance: Mapping[str, AcceptanceModel] = MappingProxyType({}),
    ) -> None:
        """Take plans from this controller, from the next round on. acceptance: by class of task,
        what it was calibrated by, the first for other classes.
        """
        self._wanted = controller
        self.guesses.go_by(acceptance)

    def begin(self, running: Iterable[Sequence], *, draft_available: bool) -> None:
        """Before a round: give rows their plans, and say which of them pause."""
        self._controller, self._group.share = self._wanted, self._settings.share
        rows = [text for text in running if not text.prefilling]
        steered = [text for text in rows if text.request.mode is Mode.AUTO]
        chosen = self._choose(steered, len(rows))
        for text in steered:
            text.paused = False
        insists = any(text.request.insists for text in rows)
        is_measure = draft_available and not insists and not self._settings.frozen
        if any(text.wants_proposal for text in steered):
            self._pause(steered, len(rows), is_measure=is_measure)
        else:
            is_measure = False
        self._now = _Now(len(rows), chosen, draft_available, is_measure)

    def end(self, step: Step, times: Times) -> None:
        """After a round that was committed: learn from it, and decide."""
        self._learn(step.rounds)
        if step.has_prompts or not step.rounds:
            return
        now, controller = self._now, self._controller
        if controller is not None and now.chosen:
            controller.took(self._work(step, times))
            if not self._settings.frozen:
                for change in controller.decide(list(now.chosen), now.num_rows, times.whole_s):
                    self.counters["plan_changes"] += 1
                    self._report(f"plan of {change}")
        if now.is_measure:
            self._measure(step.rounds, times.whole_s)

    def state(self) -> dict[str, Any]:
        """What /health shows: the plans in force by class and load, the measured benefit by load.

        A load is called by the number of texts that it is below.
        """
        plans = {} if self._controller is None else self._controller.plans()
        benefit = {}
        for load, each in sorted(dict(self._group.comparisons()).items()):
            measured = each.benefit()
            told = {} if measured is None else vars(measured)
            benefit[str(load)] = {"is_on": each.is_on, **told}
        return {
            "frozen": self._settings.frozen,
            "plans": {
                task: {str(load): choice.why for load, choice in by_load.items()}
                for task, by_load in plans.items()
            },
            "benefit": benefit,
        }

    def plans(self) -> dict[str, dict[int, Plan]]:
        """The plans in force, by class and load; none without a controller."""
        plans = {} if self._controller is None else self._controller.plans()
        return {
            task: {load: choice.candidate.plan for load, choice in by_load.items()}
            for task, by_load in plans.items()
        }

    def _choose(self, steered: Items[Sequence], num_rows: int) -> Mapping[str, Choice]:
        """Give rows the plans of their classes. -> those."""
        controller, off = self._controller, self._group.off(num_rows)
        classes = {text: self._class_of(text.request) for text in steered}
        tasks = [task for task in dict.fromkeys(classes.values()) if task is not None]
        chosen: Mapping[str, Choice] = {}
        if controller is not None and tasks:
            chosen = controller.begin(tasks, num_rows, frozen=self._settings.frozen)
        for text, task in classes.items():
            plan, why = text.request.plan, "of the config"
            if task is not None:
                plan, why = _with_fixed(chosen[task].candidate.plan, text.request), chosen[task].why
            text.plan, text.why = plan, _why(text.request, off or why)
        return chosen

    def _pause(self, steered: Items[Sequence], num_rows: int, *, is_measure: bool) -> None:
        """Let rows pause where the control group says so; one that insists never does."""
        allowed = self._group.allows(num_rows, measures=is_measure)
        self.counters["control_steps"] += self._group.in_window
        for text in steered:
            text.paused = not allowed and not text.request.insists

    def _learn(self, rounds: Items[Round]) -> None:
        """Acceptance, of rounds that had the guesses which their plan calls for."""
        if self._controller is None:
            return
        num_rounds: Counter[str] = Counter()
        num_accepted: Counter[str] = Counter()
        for each in rounds:
            task = self._learns_of(each.sequence)
            if task is None or each.sequence.paused:
                continue
            undrafted = self._now.chosen[task].candidate.plan.max_proposal == 0
            if undrafted or each.num_drafted or each.sequence.status is RowStatus.OK:
                num_rounds[task] += 1
                num_accepted[task] += each.num_accepted
        for task, count in num_rounds.items():
            self._controller.learn(self._now.chosen[task], count, num_accepted[task])

    def _class_of(self, request: GenerateRequest) -> str | None:
        """The class whose plans a request follows; None if it has a plan of its own."""
        if self._controller is None or request.mode is not Mode.AUTO or not request.task:
            return None
        return self._controller.class_of(request.task)

    def _learns_of(self, text: Sequence) -> str | None:
        """The class whose plan a row follows as it is, with no field of its own."""
        task = None if text.request.fixed else self._class_of(text.request)
        return task if task in self._now.chosen else None

    def _work(self, step: Step, times: Times) -> StepWork:
        """The round as costs see it. The call is no measure where rows of other plans asked too, or
        where the draft has to read a text first."""
        texts = [each.sequence for each in step.rounds]
        may_ask = [text for text in texts if text.request.mode is not Mode.OFF and not text.paused]
        classes = [self._learns_of(text) for text in may_ask if text.plan.max_proposal > 0]
        drafted = [self._now.chosen[task].candidate for task in classes if task is not None]
        asked = [text.status for text in texts if text.asked]
        told = [status for status in asked if status not in GETTING_READY]
        if len(drafted) < len(classes) or len(told) < len(asked) or not self._now.can_ask:
            drafted = []
        return StepWork(
            texts=len(texts),
            tokens=len(step.token_ids),
            call_s=times.call_s,
            forward_s=times.forward_s,
            drafted=drafted,
            asked=len(told),
            answered=told.count(RowStatus.OK),
        )

    def _measure(self, rounds: Items[Round], seconds: float) -> None:
        texts = [each.sequence for each in rounds]
        is_warm = all(text.status is RowStatus.OK for text in texts if text.asked)
        num_tokens = sum(each.num_committed for each in rounds)
        if self._group.took(num_tokens, seconds, is_warm=is_warm):
            self.counters["control_switches"] += 1
            self._report(f"speculation: {self._group.verdict(self._now.num_rows)}")


def _with_fixed(plan: Plan, request: GenerateRequest) -> Plan:
    """A plan with the fields that the client set."""
    return replace(plan, **{name: getattr(request.plan, name) for name in request.fixed})


def _why(request: GenerateRequest, service: str) -> str:
    """Why a row has its plan. service: the reason for what the request leaves open."""
    if not request.fixed:
        return service
    fields = f"{', '.join(sorted(request.fixed))} of the request"
    return fields if request.insists else f"{fields}; {service}"
