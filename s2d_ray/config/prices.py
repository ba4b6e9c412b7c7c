"""What replicas cost, for `s2d advise`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from s2d_ray.config.section import Section
from s2d_ray.config.target import TargetConfig

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PricesConfig(Section):
    """What an hour of a replica costs. Only `s2d advise` reads it; nothing restarts."""

    currency: str = Field(
        min_length=1, max_length=16, description="What prices are in, such as EUR; for reading."
    )
    replica_hour: Price | None = Field(
        None, description="Of one target replica, unless a price below is for it."
    )
    placements: dict[str, Price] = Field(
        {}, description="Of one target replica on the nodes of a placement, by its name."
    )
    targets: dict[str, Price] = Field(
        {}, description="Of one replica of a target, by its name; before all others."
    )
    draft_hour: Price | None = Field(
        None, description="Of the draft; none: its hours are shown without a price."
    )

    def of(self, name: str, target: TargetConfig) -> float | None:
        """An hour of one replica of a target; None if no price is for it."""
        by_place = self.placements.get(target.placement) if target.placement else None
        found = (self.targets.get(name), by_place, self.replica_hour)
        return next((price for price in found if price is not None), None)

    def troubles(self, targets: Mapping[str, TargetConfig]) -> Iterator[str]:
        """Names in it that nothing has; each line names its key."""
        places = {target.placement for target in targets.values()}
        for name in self.targets:
            if name not in targets:
                yield f"prices.targets.{name}: there is no target {name!r}"
        for place in self.placements:
            if place not in places:
                yield f"prices.placements.{place}: no target has this placement"
