"""From answered questions to the figures of `s2d bench spec`. Pure: no model, no clock.

As Spec-Bench counts: a question's speed is its tokens over its seconds, all turns together; the
speed-up of a group is the mean of its questions' speeds over the mean of the baseline's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from s2d_ray.bench.figures import Spread, Written, spread
from s2d_ray.bench.questions import GROUPS

BASELINE = "plain"

PLANNED = "planned"
"""Each prompt under the plan that the plan file has for its class of task."""

PEERS = ("prompt-lookup", "assisted")
"""Plans by `transformers`."""


@dataclass(frozen=True)
class Answer:
    """What one plan wrote for one question. turns: ids of each answer, its end token included.

    seconds: of all turns. rounds: decode steps of the target; accepted: guesses that became text.
    accepted_by: by layers of the exit, 0 being tier 0. steps: draft steps by exit layer.
    """

    turns: tuple[tuple[int, ...], ...]
    seconds: float
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_by: Mapping[int, int] = field(default_factory=dict)
    steps: Mapping[int, int] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Ids written, the one counter for all plans."""
        return sum(map(len, self.turns))

    @property
    def speed(self) -> float:
        """Tokens per second of wall time, prompts included."""
        return self.num_tokens / self.seconds


def joined(answers: Sequence[Written], seconds: float) -> Answer:
    """The answers of one conversation as one."""
    accepted_by: Counter[int] = Counter()
    steps: Counter[int] = Counter()
    for each in answers:
        accepted_by.update(each.accepted_by)
        steps.update(each.steps)
    return Answer(
        tuple(each.texts[0] for each in answers),
        seconds,
        rounds=sum(each.rounds for each in answers),
        drafted=sum(each.drafted for each in answers),
        accepted=sum(each.accepted for each in answers),
        accepted_by=dict(accepted_by),
        steps=dict(steps),
    )


@dataclass(frozen=True)
class Answered:
    """One question answered by all plans in turn. commit: of the code that did it."""

    target: str
    question_id: int
    group: str
    commit: str
    answers: Mapping[str, Answer]


def speed(questions: Sequence[Answered], plan: str) -> float:
    """Mean of the questions' tokens per second."""
    return mean(each.answers[plan].speed for each in questions)


def speedup(questions: Sequence[Answered], plan: str) -> float:
    """Mean speed over the baseline's."""
    return speed(questions, plan) / speed(questions, BASELINE)


def spread_of(questions: Sequence[Answered], plan: str) -> Spread:
    """Speed over the baseline's question by question: neighbours in time share the noise."""
    return spread(each.answers[plan].speed / each.answers[BASELINE].speed for each in questions)


def mean_accepted_length(questions: Sequence[Answered], plan: str) -> float:
    """1 + accepted / rounds, over all decode steps of all questions."""
    answers = [each.answers[plan] for each in questions]
    rounds = sum(each.rounds for each in answers)
    return 1 + sum(each.accepted for each in answers) / rounds if rounds else 1.0


def same(questions: Sequence[Answered], plan: str) -> int:
    """How many questions the plan answered with the very ids of the baseline."""
    return sum(each.answers[plan].turns == each.answers[BASELINE].turns for each in questions)


def by_group(questions: Sequence[Answered]) -> dict[str, list[Answered]]:
    """The questions of each group that has any."""
    found = {name: [each for each in questions if each.group == name] for name in GROUPS}
    return {name: each for name, each in found.items() if each}


def shares(counts: Sequence[Mapping[int, int]]) -> dict[str, float]:
    """Shares of the sum of several counts, by layers of the exit; empty if there are none."""
    total: Counter[int] = Counter()
    for each in counts:
        total.update(each)
    whole = total.total()
    return {str(layers): round(n / whole, 4) for layers, n in sorted(total.items()) if whole}


def plan_figures(questions: Sequence[Answered], plan: str) -> dict[str, Any]:
    """The published keys of one plan."""
    groups = by_group(questions)
    answers = [each.answers[plan] for each in questions]
    per_question = spread_of(questions, plan)
    return {
        "speedup": {
            "overall": round(speedup(questions, plan), 4),
            "groups": {name: round(speedup(of, plan), 4) for name, of in groups.items()},
        },
        "spread": {"median": per_question.rounded, "ends": per_question.ends},
        "mean_accepted_length": round(mean_accepted_length(questions, plan), 4),
        "mean_accepted_lengths": {
            name: round(mean_accepted_length(of, plan), 4) for name, of in groups.items()
        },
        "identical": same(questions, plan) == len(questions),
        "identical_questions": same(questions, plan),
        "tokens": sum(each.num_tokens for each in answers),
        "seconds": round(sum(each.seconds for each in answers), 2),
        "accepted_by": shares([each.accepted_by for each in answers]),
        "draft_steps": shares([each.steps for each in answers]),
    }


def target_figures(questions: Sequence[Answered], plans: Sequence[str]) -> dict[str, Any]:
    """The published keys of one target. plans: without the baseline."""
    groups = by_group(questions)
    return {
        "plans": {plan: plan_figures(questions, plan) for plan in plans},
        "plain": {
            "tokens_per_second": round(speed(questions, BASELINE), 3),
            "groups": {name: round(speed(of, BASELINE), 3) for name, of in groups.items()},
        },
        "questions": {name: len(of) for name, of in groups.items()},
    }
