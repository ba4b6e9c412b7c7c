"""What `s2d sweep` compares: a grid of thresholds and lengths, the config's plan, and the plan
file's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2d_ray.bench.alternate import Method
from s2d_ray.bench.rig import Parts
from s2d_ray.bench.spec_figures import BASELINE, PLANNED
from s2d_ray.core.cascade import Plan
from s2d_ray.core.goodput import PLAIN
from s2d_ray.engine.messages import Mode
from s2d_ray.plan_file import TargetPlans
from s2d_ray.tuning.search import ranked

CONFIGURED = "configured"
"""The config's own plan."""

PlansOf = Mapping[str, Mapping[str, Plan]]
"""By name, then by class of task."""


@dataclass(frozen=True)
class Axes:
    """The grid: one threshold for all exits, and a length."""

    thresholds: tuple[float, ...]
    lengths: tuple[int, ...]

    def plans(self, num_exits: int) -> dict[str, Plan]:
        """The grid's plans by name."""
        return {
            grid_name(threshold, length): Plan(
                (threshold,) * (num_exits - 1), 0.0, length, min_match=0
            )
            for threshold in self.thresholds
            for length in self.lengths
        }


QUICK = Axes((0.0, 1.0), (2,))
WHOLE = Axes((0.0, 0.5, 0.8, 1.0), (1, 2, 4, 8))


def grid_name(threshold: float, length: int) -> str:
    """A plan of the grid in one word."""
    return f"t{threshold:g}-n{length}"


def plans_of(axes: Axes, configured: Plan, plans: TargetPlans, num_exits: int) -> PlansOf:
    """All plans of a sweep, plain decoding first."""
    tasks = list(plans.classes)
    same = {BASELINE: PLAIN.plan, CONFIGURED: configured, **axes.plans(num_exits)}
    return {
        **{name: dict.fromkeys(tasks, plan) for name, plan in same.items()},
        PLANNED: {task: of.kept()[0].plan for task, of in plans.classes.items()},
    }


def plans_at(plans: TargetPlans, rows: int) -> dict[str, Plan]:
    """The best plan of each class for so many texts that run together."""
    return {
        task: ranked(of.kept(), plans.costs, rows)[0].plan for task, of in plans.classes.items()
    }


def method(parts: Parts, by_prompt: Mapping[tuple[int, ...], Plan]) -> Method:
    """What writes texts under plans by their prompts, as `auto`; plain where none speculates."""
    seat = parts.first
    if all(plan.is_plain for plan in by_prompt.values()):
        return seat.ours(PLAIN.plan, Mode.OFF)
    return seat.by_prompt(by_prompt.__getitem__, parts.draft)


def names(plans: PlansOf) -> Sequence[str]:
    """All but the baseline."""
    return [name for name in plans if name != BASELINE]
