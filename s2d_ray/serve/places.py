"""Where on a cluster an application runs: Ray's node labels, one for each place.

A node may be several places: `s2d serve` gives its one node all of them, a Helm chart each group of
pods one.
"""

from __future__ import annotations

from s2d_ray.config import AppConfig

ROUTER = "router"
CONTROL = "control"
DRAFT = "draft"


def label_of(place: str) -> dict[str, str]:
    """The label of a node that is this place; as a selector, the wish to run there."""
    return {f"s2d-ray/{place}": "true"}


def labels_of_all(config: AppConfig) -> dict[str, str]:
    """The labels of a node that is every place a config names."""
    placements = {target.placement for target in config.targets.values()}
    places = {ROUTER, CONTROL, DRAFT} | {name for name in placements if name is not None}
    return {key: value for place in sorted(places) for key, value in label_of(place).items()}
