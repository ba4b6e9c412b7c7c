"""What bare forwards would take, by measured costs and without any overhead. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2d_ray.bench.figures import Written
from s2d_ray.config import Precision
from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel


@dataclass(frozen=True)
class Costs:
    """Seconds of bare calls, and stock_s: one row by the stock model, at the same context."""

    stock_s: float
    model: CostModel


@dataclass(frozen=True)
class Curves:
    """The measured curves. costs: in the config's own precisions.

    trees_s: a forward over a tree of one sequence, by its name. drafts_s: draft steps like those of
    `costs`, by the draft's precision, so that one can be chosen.
    """

    costs: Costs
    trees_s: Mapping[str, float]
    drafts_s: Mapping[Precision, Mapping[tuple[int, int], float]]


def ideal_seconds(
    costs: CostModel, written: Written, prompts: Sequence[Sequence[int]], plan: Plan
) -> float:
    """The prompts' forwards, the rounds' forwards and the draft steps of texts written one by one.

    The draft's own prefill and its catch-up rows are left out, which makes the ideal faster than
    anything could be: the share of it that is reached errs on the low side.
    """
    seconds = sum(costs.prefill(len(prompt)) for prompt in prompts)
    for num_levels, num_rounds in written.levels.items():
        nodes = sum(plan.width_at(level) for level in range(num_levels))
        seconds += num_rounds * costs.forward(1, 1 + nodes)
    for layer, num_steps in written.steps.items():
        seconds += num_steps * costs.draft(layer, 1)
    return seconds


def ceiling(costs: CostModel, longest: int) -> tuple[float, int, int]:
    """Speed-up over plain if every guess were right: (factor, exit layer, drafted tokens)."""
    plain_s = costs.forward(1, 1)
    best = []
    for layer in costs.layers:
        for length in range(1, longest + 1):
            round_s = costs.forward(1, 1 + length) + length * costs.draft(layer, 1)
            best.append(((1 + length) * plain_s / round_s, layer, length))
    return max(best)
