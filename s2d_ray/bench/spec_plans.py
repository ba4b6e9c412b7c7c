"""The plans of `s2d bench spec`: their names, and the methods behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2d_ray.bench.alternate import Method
from s2d_ray.bench.comparisons import our_methods
from s2d_ray.bench.rig import Parts
from s2d_ray.bench.spec_figures import BASELINE, PEERS, PLANNED
from s2d_ray.config import AppConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.errors import ConfigError
from s2d_ray.plan_file import PlanFile, load_plan_file
from s2d_ray.policy.tasks import code_share, overlap, task_class

_OURS = {"plain": BASELINE, "auto": "cascade", "force": "sorted", "tier0": "tier-0"}
"""Names of `our_methods` that are others here."""


def plan_names(exits: Sequence[int], *, has_file: bool) -> list[str]:
    """All plans for a draft with such exits, and perhaps a plan file; the baseline first."""
    fixed = [f"exit-{layers}" for layers in exits]
    planned = [PLANNED] if has_file else []
    return [BASELINE, *planned, "cascade", "sorted", *fixed, "tier-0", *PEERS]


def choose_plans(exits: Sequence[int], wanted: Sequence[str], *, has_file: bool) -> list[str]:
    """The wanted plans, or all, in the one order; the baseline is always among them.

    Raises ConfigError for a plan that there is not.
    """
    names = plan_names(exits, has_file=has_file)
    for name in wanted:
        if name == PLANNED and not has_file:
            raise ConfigError(
                f"--plans: {PLANNED!r} needs a plan file; name it in the config: plans"
            )
        if name not in names:
            raise ConfigError(f"--plans: {name!r} is none of {', '.join(names)}")
    return [name for name in names if not wanted or name in (*wanted, BASELINE)]


def plan_file_of(config: AppConfig) -> PlanFile | None:
    """The file that a config names. Raises ConfigError if it cannot be read or does not fit."""
    if config.plans is None:
        return None
    file = load_plan_file(Path(config.plans))
    if troubles := list(file.troubles(config)):
        raise ConfigError("\n".join(f"plans: {config.plans}: {trouble}" for trouble in troubles))
    return file


def make_methods(parts: Parts, plans: Sequence[str], file: PlanFile | None) -> dict[str, Method]:
    """What answers under each plan; loads what they need.

    Raises ConfigError if the plan file is not of these weights.
    """
    found = {_OURS.get(name, name.replace("_", "-")): m for name, m in our_methods(parts).items()}
    if PLANNED in plans and file is not None:
        found[PLANNED] = _planned(parts, file)
    if "prompt-lookup" in plans:
        found["prompt-lookup"] = parts.packed.prompt_lookup
    if "assisted" in plans:
        found["assisted"] = parts.packed.assisted
    return {plan: found[plan] for plan in plans}


def _planned(parts: Parts, file: PlanFile) -> Method:
    """Requests as a router would plan them, by the class of their prompt."""
    plans, decode = parts.plans(file), parts.first.target.text.decode

    def choose(prompt: tuple[int, ...]) -> Plan:
        text = decode(prompt)
        _, found = plans.of(task_class(len(prompt), code_share(text), overlap(text)))
        return found.candidates[0].plan.plan()

    return parts.first.by_prompt(choose, parts.draft)
