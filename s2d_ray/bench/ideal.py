"""What bare forwards would take, by measured costs and without any overhead. Pure arithmetic."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2d_ray.bench.figures import Written
from s2d_ray.config import Precision
from s2d_ray.core.cascade import Plan


@dataclass(frozen=True)
class Costs:
    """Seconds of bare calls, from whoever measured them.

    stock_s: one row by the stock model, at the same context. forward_s: a target forward by
    (sequences, tokens of each), all rows scored. prefill_s: a prompt of so many tokens, its last
    row scored. draft_s: a draft step by (exit layer, rows), each row one token of one sequence, all
    exits on the way scored.
    """

    stock_s: float
    forward_s: Mapping[tuple[int, int], float]
    prefill_s: Mapping[int, float]
    draft_s: Mapping[tuple[int, int], float]

    def forward_rows(self, num_rows: int) -> float:
        """A forward over `num_rows` tokens of one sequence, between the measured ones on a line."""
        return interpolate({k: s for (n, k), s in self.forward_s.items() if n == 1}, num_rows)

    @property
    def exits(self) -> list[int]:
        """Exit layers, shallowest first."""
        return sorted({layer for layer, _ in self.draft_s})


@dataclass(frozen=True)
class Curves:
    """The measured curves. costs: in the config's own precisions.

    trees_s: a forward over a tree of one sequence, by its name. drafts_s: draft steps like those of
    `costs`, by the draft's precision, so that one can be chosen.
    """

    costs: Costs
    trees_s: Mapping[str, float]
    drafts_s: Mapping[Precision, Mapping[tuple[int, int], float]]


def interpolate(points: Mapping[int, float], at: int) -> float:
    """Linear between neighbours, and along the last two beyond the ends. Needs two points."""
    known = sorted(points)
    right = min(max(bisect_left(known, at), 1), len(known) - 1)
    a, b = known[right - 1], known[right]
    return points[a] + (points[b] - points[a]) * (at - a) / (b - a)


def ideal_seconds(
    costs: Costs, written: Written, prompts: Sequence[Sequence[int]], plan: Plan
) -> float:
    """The prompts' forwards, the rounds' forwards and the draft steps of texts written one by one.

    The draft's own prefill and its catch-up rows are left out, which makes the ideal faster than
    anything could be: the share of it that is reached errs on the low side.
    """
    seconds = sum(interpolate(costs.prefill_s, len(prompt)) for prompt in prompts)
    for num_levels, num_rounds in written.levels.items():
        nodes = sum(plan.width_at(level) for level in range(num_levels))
        seconds += num_rounds * costs.forward_rows(1 + nodes)
    for layer, num_steps in written.steps.items():
        seconds += num_steps * costs.draft_s[layer, 1]
    return seconds


def ceiling(costs: Costs, longest: int) -> tuple[float, int, int]:
    """Speed-up over plain if every guess were right: (factor, exit layer, drafted tokens)."""
    plain_s = costs.forward_rows(1)
    best = []
    for layer in costs.exits:
        for length in range(1, longest + 1):
            round_s = costs.forward_rows(1 + length) + length * costs.draft_s[layer, 1]
            best.append(((1 + length) * plain_s / round_s, layer, length))
    return max(best)
