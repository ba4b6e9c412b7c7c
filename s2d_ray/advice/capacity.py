"""How many replicas a load needs, by the simulator's step costs and draft.

A replica carries what the scaling rule lets it carry; how long its texts then take is the engine's
pace. Requests have one shape, the mean of all: steps, not waits, are counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from s2d_ray.config import AppConfig, AutoscalingConfig, TargetConfig
from s2d_ray.core.cost_model import CostModel
from s2d_ray.policy.scaling import ROUNDING
from s2d_ray.simulate.draft import SharedDraft
from s2d_ray.simulate.replica import Engine, Pace

MOST_USERS = 2_000
"""Replicas that are tried beside each other at one draft."""


@dataclass(frozen=True)
class Shape:
    """The mean request. prompt_tokens: to be read, without those that are copied."""

    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True)
class Guessing:
    """What the draft does for a text.

    levels: guesses of a proposal. acceptance: P(a guess is right, if those before it are).
    """

    levels: int
    acceptance: float

    def draft(self, costs: CostModel) -> SharedDraft:
        """A draft of its own for whoever asks, its steps to the shallowest exit."""
        layers = costs.layers[0]
        return SharedDraft(self.levels, lambda rows: costs.draft(layers, rows), self.acceptance)


@dataclass(frozen=True)
class Carrier:
    """What all replicas of a target do for requests of one shape.

    texts: that a replica carries at the same time. guessing: None: no draft.
    """

    engine: Engine
    texts: int
    shape: Shape
    guessing: Guessing | None

    def rate(self, pace: Pace) -> float:
        """Requests that a replica ends in a second."""
        return 1 / (self._read_s() + self._steps(pace) * pace.step_s / self.texts)

    def _read_s(self) -> float:
        """What the prompt of a request adds to steps of the others."""
        whole, rest = divmod(self.shape.prompt_tokens, self.engine.chunk_beside)
        whole_s = whole * self.engine.beside_s(self.engine.chunk_beside)
        return whole_s + self.engine.beside_s(rest)

    def _steps(self, pace: Pace) -> float:
        """Steps of a text. Its first token comes with its prompt; it has a place then too."""
        return 1 + max(0.0, self.shape.output_tokens - 1) / pace.tokens

    @property
    def plain(self) -> Pace:
        """Without a draft."""
        return self.engine.pace(self.texts, None)

    @cached_property
    def paces(self) -> list[Pace]:
        """With one draft: the first for a replica that has it alone, the next beside another one,
        and so on while speculation pays for all of them."""
        if self.guessing is None:
            return []
        draft, found = self.guessing.draft(self.engine.costs), list[Pace]()
        while len(found) < MOST_USERS:
            pace = self.engine.pace(self.texts, draft)
            if pace.forward_s is None:
                break
            found.append(pace)
            draft.join(object(), self.texts, pace.forward_s)
        return found

    def replicas_for(self, per_s: float, others: int = 0) -> int:
        """The fewest replicas that carry so many requests a second.

        others: replicas of other targets, which are taken to ask the draft like these. As many of
        its own ask it as write most together; the rest decodes plainly.
        """
        if per_s <= 0:
            return 0
        plain = self.rate(self.plain)
        gains = [
            number * (self.rate(pace) - plain)
            for number, pace in enumerate(self.paces[others:], start=1)
        ]
        best = [0.0, *accumulate((max(0.0, gain) for gain in gains), max)]
        for number, gain in enumerate(best):
            if number * plain + gain >= per_s * (1 - ROUNDING):
                return number
        return math.ceil((per_s - best[-1]) / plain - ROUNDING)

    def rate_of(self, replicas: int, others: int = 0) -> float:
        """Requests that so many replicas end in a second."""
        plain = self.rate(self.plain)
        paces = self.paces[others : others + replicas]
        gains = [n * (self.rate(pace) - plain) for n, pace in enumerate(paces, start=1)]
        return replicas * plain + max([0.0, *gains])


def carrier_of(
    target: TargetConfig, costs: CostModel, shape: Shape, guessing: Guessing | None
) -> Carrier:
    """Of a target as it is configured."""
    scaling = target.autoscaling or AutoscalingConfig(max_replicas=1)
    carried = min(target.max_batch, max(1, int(scaling.carried_requests(target.max_batch))))
    return Carrier(Engine(costs, target.max_batch, target.prefill_chunk), carried, shape, guessing)


def replicas_needed(carriers: dict[str, Carrier], per_s: dict[str, float]) -> dict[str, int]:
    """Replicas of every target, where all share one draft.

    More replicas make the draft dearer, which may take more of them: counts rise until they agree.
    """
    counts = dict.fromkeys(carriers, 0)
    while True:
        total = sum(counts.values())
        wanted = {
            name: max(counts[name], carrier.replicas_for(per_s[name], total - counts[name]))
            for name, carrier in carriers.items()
        }
        if wanted == counts:
            return counts
        counts = wanted


def guessing_of(config: AppConfig, acceptance: float | None) -> Guessing | None:
    """Of the config's plan; None where nothing is guessed, or how well is not known."""
    levels = config.plan.max_proposal
    if config.draft is None or not levels or acceptance is None:
        return None
    return Guessing(levels, acceptance)
