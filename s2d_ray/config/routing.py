"""Names that leave the choice of a target to the service, and the plan table."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Annotated

from pydantic import Field

from s2d_ray.config.plan import PlanConfig
from s2d_ray.config.section import Section
from s2d_ray.config.target import TARGET_NAME, TARGET_NAME_IN_WORDS
from s2d_ray.policy.routing import Auto


class RoutedTarget(Section):
    """What the router goes by when it chooses among targets."""

    cost: float = Field(1.0, gt=0, description="Of a token, relative; `auto` takes the dearest.")
    prefill_tokens_per_s: float = Field(1_000.0, gt=0, description="Of one prompt.")
    decode_tokens_per_s: float = Field(20.0, gt=0, description="Of one text.")


class PlanRow(Section):
    """A row of the plan table. What it leaves out fits every request."""

    target: str | None = Field(None, description="For requests that go to this target.")
    task: str | None = Field(
        None, max_length=64, description="For requests that name this class in `s2d.task`."
    )
    max_load_s: float | None = Field(
        None, ge=0, description="While the outstanding tokens are at most so many seconds of work."
    )
    plan: PlanConfig = Field(
        description="Its plan; what it leaves out comes from the config's `plan`."
    )


class RoutingConfig(Section):
    """Names that leave the choice of a target to the service, and the plan table. Live."""

    patience_s: float = Field(
        20.0, gt=0, description="`auto` takes the dearest target that answers within this time."
    )
    targets: dict[str, RoutedTarget] = Field(
        {}, description="Costs and speeds of targets, by name."
    )
    splits: dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]] = Field(
        {}, description="Names that stand for several targets, each with its weight."
    )
    plans: tuple[PlanRow, ...] = Field(
        (), description="The plan table; the first row that fits a request is its plan."
    )

    def troubles(self, targets: Collection[str]) -> Iterator[str]:
        """What is wrong with it where these are the targets; each names its key."""
        for name in (*targets, *self.splits):
            if name in list(Auto):
                where = "targets" if name in targets else "routing.splits"
                yield f"{where}.{name}: with routing, this name leaves the choice to the service"
        named = [(f"targets.{name}", name) for name in self.targets]
        for split, weights in self.splits.items():
            if not re.fullmatch(TARGET_NAME, split):
                yield f"routing.splits: {split!r} must be {TARGET_NAME_IN_WORDS}"
            if split in targets:
                yield f"routing.splits.{split}: a target has this name"
            if not sum(weights.values()):
                yield f"routing.splits.{split}: no target has a weight above 0"
            named += [(f"splits.{split}.{name}", name) for name in weights]
        for number, row in enumerate(self.plans):
            if row.target is not None:
                named.append((f"plans.{number}.target", row.target))
        for where, name in named:
            if name not in targets:
                yield f"routing.{where}: there is no target {name!r}"
