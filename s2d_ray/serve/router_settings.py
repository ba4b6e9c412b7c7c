"""What routers are told while they run: Serve's `user_config` of the router. Plain data."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel

from s2d_ray.config import PlanConfig, RoutedTarget, RoutingConfig, as_written, check_section
from s2d_ray.core.cascade import Plan
from s2d_ray.policy.routing import PlanRule, Rules, TargetState
from s2d_ray.serve.backend import Routing, TargetInfo


class TargetFacts(BaseModel):
    """What the router tells of a target, and routes by, without asking it.

    slots: texts that all its replicas, as many as it may have, write at the same time.
    """

    model: str
    max_context: int
    default_max_tokens: int
    slots: int

    def to_info(self, name: str, created: int) -> TargetInfo:
        """What the API says about it. created: Unix seconds."""
        return TargetInfo(name, created, self.model, self.max_context, self.default_max_tokens)

    def to_state(self, routed: RoutedTarget) -> TargetState:
        """What the policy knows of it while it is idle."""
        return TargetState(
            is_alive=True, max_context=self.max_context, slots=self.slots, **routed.model_dump()
        )


class RouterSettings(BaseModel):
    """The live part of the config, as far as routers are concerned.

    plan, routing: these sections of the config, as written; routing is None if there is none.
    plans: the plan file, which routers watch.
    """

    targets: dict[str, TargetFacts]
    has_draft: bool
    plan: dict[str, Any] = {}
    routing: dict[str, Any] | None = None
    plans: str | None = None

    def to_routing(self) -> Routing:
        """The same as the edge knows it. Raises ConfigError that names what is wrong."""
        config = check_section(RoutingConfig, self.routing or {}, "routing")
        plan = check_section(PlanConfig, self.plan, "plan")
        states = {
            name: facts.to_state(config.targets.get(name, RoutedTarget()))
            for name, facts in self.targets.items()
        }
        rows = [
            PlanRule(
                _merged(plan, row.plan),
                row.target,
                row.task,
                math.inf if row.max_load_s is None else row.max_load_s,
            )
            for row in config.plans
        ]
        rules = Rules(config.splits, config.patience_s, rows)
        return Routing(plan.plan(), states, rules, has_auto=self.routing is not None)


def _merged(default: PlanConfig, row: PlanConfig) -> Plan:
    """The plan of a row: what it leaves out is that of the default."""
    return PlanConfig(**{**as_written(default), **as_written(row)}).plan()
