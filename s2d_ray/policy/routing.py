"""The router's policy: which target a request goes to, and by which plan. Pure and deterministic.

A request names a target, or leaves the choice to the service: `auto` takes the best target that is
expected to answer in time, `auto:fast` the one expected to answer first, `auto:cheap` the cheapest.
A name of the config may also stand for several targets with weights, such as an old one and a
canary. All draws are hashes of the conversation, so that every router replica makes the same one,
and later turns of a conversation meet the prefix cache of the first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from s2d_ray.errors import Forbidden, Unavailable, UnknownModel

AnyPlan = TypeVar("AnyPlan")

AS_GOOD = 1.25
"""Targets expected to take at most so many times the best one's time count as equally good."""


class Auto(StrEnum):
    """Names of `model` that leave the choice to the service."""

    BEST = "auto"
    FAST = "auto:fast"
    CHEAP = "auto:cheap"


@dataclass(frozen=True)
class TargetState:
    """What a router knows of a target when it chooses.

    cost: of a token, relative to the other targets; the dearer of two writes the better texts.
    prefill_tokens_per_s, decode_tokens_per_s: of one text. slots: texts written at the same time.
    outstanding_tokens: reserved by all requests that run or wait there.
    """

    is_alive: bool
    max_context: int
    cost: float
    slots: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    outstanding_tokens: int = 0

    def expected_s(self, prompt_tokens: int, output_tokens: int) -> float:
        """Seconds until a request is answered: the wait, its prompt, its output."""
        prompt = prompt_tokens / self.prefill_tokens_per_s
        return self.load + prompt + output_tokens / self.decode_tokens_per_s

    @property
    def load(self) -> float:
        """Outstanding tokens as seconds of work of all slots."""
        return self.outstanding_tokens / (max(1, self.slots) * self.decode_tokens_per_s)


@dataclass(frozen=True)
class Question:
    """A request, as far as the choice goes.

    prompt_tokens, output_tokens: estimates. conversation: equal for all turns of one, such as a
    hash of its first messages. allowed: targets the tenant may use, None for all. task: the class
    of task that it names, if any. looks_like: the class that it is taken for; None if it wants no
    plan that was learned.
    """

    model: str
    prompt_tokens: int
    output_tokens: int
    conversation: str = ""
    allowed: frozenset[str] | None = None
    task: str | None = None
    looks_like: str | None = None


@dataclass(frozen=True)
class PlanRule(Generic[AnyPlan]):
    """A row of the plan table; what is None fits everything. max_load: seconds of work."""

    plan: AnyPlan
    target: str | None = None
    task: str | None = None
    max_load: float = math.inf

    def fits(self, target: str, task: str | None, load: float) -> bool:
        """Whether the row is for such a request."""
        return self.target in (None, target) and self.task in (None, task) and load <= self.max_load


def nothing_learned(target: str, task: str) -> None:
    """Where there is no plan file."""


@dataclass(frozen=True)
class Rules(Generic[AnyPlan]):
    """The live configuration of the router.

    splits: names that stand for several targets, with weights. patience_s: `auto` takes the best
    target that is expected to answer within this time. plans: the first row that fits is used.
    learned: for requests that no row fits, by target and class of task: the class whose plan it is,
    and the plan.
    """

    splits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    patience_s: float = 20.0
    plans: Sequence[PlanRule[AnyPlan]] = ()
    learned: Callable[[str, str], tuple[str, AnyPlan] | None] = nothing_learned


@dataclass(frozen=True)
class Choice(Generic[AnyPlan]):
    """Where a request goes. plan: None leaves the target's default. reason: for header and log.

    task: the class whose learned plan it is, if it is one.
    """

    target: str
    plan: AnyPlan | None
    reason: str
    task: str = ""


def choose(
    question: Question, targets: Mapping[str, TargetState], rules: Rules[AnyPlan]
) -> Choice[AnyPlan]:
    """Choose target and plan.

    A target that is named is taken whether it lives or not, since a request may wait for it; one
    that is chosen lives, is allowed, and has room for the request, or if none has, the most room.
    Raises UnknownModel, Forbidden, or Unavailable if nothing that may be used lives.
    """
    target, reason = _target(question, targets, rules)
    row = plan_of(rules, target, question.task, targets[target].load)
    if row is not None:
        return Choice(target, row[1], f"{reason}; plan {row[0]}")
    if question.looks_like and (known := rules.learned(target, question.looks_like)):
        return Choice(target, known[1], f"{reason}; plan file, {known[0]}", known[0])
    return Choice(target, None, reason)


def plan_of(
    rules: Rules[AnyPlan], target: str, task: str | None = None, load: float = 0.0
) -> tuple[int, AnyPlan] | None:
    """The first row of the plan table that fits: its number, from 1, and its plan."""
    for number, rule in enumerate(rules.plans, start=1):
        if rule.fits(target, task, load):
            return number, rule.plan
    return None


def _target(
    question: Question, targets: Mapping[str, TargetState], rules: Rules[AnyPlan]
) -> tuple[str, str]:
    if question.model in targets:
        if question.allowed is not None and question.model not in question.allowed:
            raise Forbidden(
                f"This key may not use the model {question.model!r}", "model", "model_not_allowed"
            )
        return question.model, "named"
    if question.model in rules.splits:
        return _split(question, targets, rules.splits[question.model])
    if question.model not in list(Auto):
        raise UnknownModel(f"No model named {question.model!r}", "model", "model_not_found")
    names = _usable(question, targets, targets)
    seconds = {
        name: targets[name].expected_s(question.prompt_tokens, question.output_tokens)
        for name in names
    }
    kind = Auto(question.model)
    costs = {name: targets[name].cost for name in names}
    if kind is Auto.CHEAP:
        lowest = min(costs.values())
        names = [name for name in names if costs[name] == lowest]
    elif kind is Auto.BEST:
        timely = [name for name in names if seconds[name] <= rules.patience_s]
        if timely:
            highest = max(costs[name] for name in timely)
            names = [name for name in timely if costs[name] == highest]
    fastest = min(seconds[name] for name in names)
    good = [name for name in names if seconds[name] <= AS_GOOD * fastest]
    target = max(good, key=lambda name: (_draw(question.conversation, name), name))
    return target, f"{kind}: {len(good)} as good, expected {seconds[target]:.1f} s"


def _split(
    question: Question, targets: Mapping[str, TargetState], weights: Mapping[str, float]
) -> tuple[str, str]:
    """A draw by weight among the targets of a split that can be used."""
    among = {name: weight for name, weight in weights.items() if weight > 0 and name in targets}
    names = _usable(question, targets, among)
    # Weighted rendezvous hashing: a target that leaves moves only its own conversations.
    target = max(
        names,
        key=lambda name: (among[name] / -math.log(_draw(question.conversation, name)), name),
    )
    return target, f"split {question.model}"


def _usable(
    question: Question, targets: Mapping[str, TargetState], names: Mapping[str, object]
) -> list[str]:
    """The targets that are allowed, live and have room for the request, in order of name.

    If none has room by the estimate, those of the longest context, which count exactly.
    """
    allowed = [
        name for name in sorted(names) if question.allowed is None or name in question.allowed
    ]
    if not allowed:
        raise Forbidden(
            f"This key may use no target of {question.model!r}", "model", "model_not_allowed"
        )
    alive = [name for name in allowed if targets[name].is_alive]
    if not alive:
        raise Unavailable("No target that this key may use is there now", code="not_ready")
    if fitting := [name for name in alive if question.prompt_tokens < targets[name].max_context]:
        return fitting
    longest = max(targets[name].max_context for name in alive)
    return [name for name in alive if targets[name].max_context == longest]


def _draw(conversation: str, name: str) -> float:
    """A number in (0, 1) that depends on nothing else."""
    digest = hashlib.sha256(f"{conversation}\0{name}".encode()).digest()
    return (int.from_bytes(digest[:7], "big") + 0.5) / 2.0**56
