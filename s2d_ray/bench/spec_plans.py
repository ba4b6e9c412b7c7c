"""The plans of `s2d bench spec`: their names, and the methods behind them."""

from __future__ import annotations

from collections.abc import Sequence

from s2d_ray.bench.alternate import Method
from s2d_ray.bench.comparisons import our_methods
from s2d_ray.bench.rig import Parts
from s2d_ray.bench.spec_figures import BASELINE, PEERS
from s2d_ray.errors import ConfigError

_OURS = {"plain": BASELINE, "auto": "cascade", "force": "sorted", "tier0": "tier-0"}
"""Names of `our_methods` that are others here."""


def plan_names(exits: Sequence[int]) -> list[str]:
    """All plans for a draft with such exits; the baseline first."""
    fixed = [f"exit-{layers}" for layers in exits]
    return [BASELINE, "cascade", "sorted", *fixed, "tier-0", *PEERS]


def choose_plans(exits: Sequence[int], wanted: Sequence[str]) -> list[str]:
    """The wanted plans, or all, in the one order; the baseline is always among them.

    Raises ConfigError for a plan that there is not.
    """
    names = plan_names(exits)
    for name in wanted:
        if name not in names:
            raise ConfigError(f"--plans: {name!r} is none of {', '.join(names)}")
    return [name for name in names if not wanted or name in (*wanted, BASELINE)]


def make_methods(parts: Parts, plans: Sequence[str]) -> dict[str, Method]:
    """What answers under each plan; loads what they need."""
    found = {_OURS.get(name, name.replace("_", "-")): m for name, m in our_methods(parts).items()}
    if "prompt-lookup" in plans:
        found["prompt-lookup"] = parts.packed.prompt_lookup
    if "assisted" in plans:
        found["assisted"] = parts.packed.assisted
    return {plan: found[plan] for plan in plans}
