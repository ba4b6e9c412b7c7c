"""What a plan is predicted to do with a prompt: replayed on calibration's texts, at their costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from statistics import mean

from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel
from s2d_ray.core.goodput import Candidate, round_s
from s2d_ray.core.replay import Rounds, Trace, replay


class Predictor:
    """For one target, whose draft is in the same process: a call of it takes no time.

    traces: by class of task, those of greedy texts. max_debt: the draft's.
    """

    def __init__(
        self, costs: CostModel, traces: Mapping[str, Sequence[Trace]], max_debt: int
    ) -> None:
        self._costs = replace(costs, hop_s=0.0)
        self._traces = traces
        self._max_debt = max_debt
        self._known: dict[tuple[str, Plan], Candidate] = {}

    def speed(self, plan: Plan, task: str, prompt_tokens: int, num_tokens: int) -> float:
        """Tokens per second of a text alone: its prompt, in target and draft, and its rounds."""
        candidate, costs = self._candidate(task, plan), self._costs
        prompt_s = costs.prefill(prompt_tokens)
        if plan.max_proposal:  # the draft reads it too
            prompt_s += costs.draft(costs.layers[-1], prompt_tokens)
        rounds = (num_tokens - 1) / candidate.committed
        return num_tokens / (prompt_s + rounds * round_s(candidate, costs, 1))

    def _candidate(self, task: str, plan: Plan) -> Candidate:
        key = task, plan
        if key not in self._known:
            found = replay(plan, self._traces[task], self._max_debt)
            self._known[key] = reduce(add, found, Rounds()).candidate(plan)
        return self._known[key]


def predicted_speedup(
    predictor: Predictor,
    plans: Mapping[str, Plan],
    plain: Plan,
    texts: Sequence[tuple[str, int, int]],
) -> float:
    """Mean speed over plain's. texts: (class of task, prompt tokens, tokens written)."""
    speeds = [predictor.speed(plans[task], task, *sizes) for task, *sizes in texts]
    return mean(speeds) / mean(predictor.speed(plain, task, *sizes) for task, *sizes in texts)
