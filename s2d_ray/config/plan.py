"""The plan of requests that name none."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from s2d_ray.config.section import Section
from s2d_ray.core.cascade import Plan

Probability = Annotated[float, Field(ge=0.0, le=1.0)]

MAX_PROPOSAL = 32
"""Deepest proposal a plan may ask for; bounds the rows of one target forward."""

MAX_TREE_WIDTH = 8
"""Most guesses a plan may ask for behind one token."""


class PlanConfig(Section):
    """The plan of requests that name none: thresholds, and a cap on drafted tokens."""

    exit_thresholds: tuple[Probability, ...] = Field(
        (0.5, 0.5),
        description="One per sub-model but the deepest; below it a drafted token goes deeper, at 1 "
        "always.",
    )
    stop_threshold: Probability = Field(
        0.0,
        description="The draft's proposal ends once its confidences multiply to less.",
    )
    max_proposal: int = Field(
        4,
        ge=0,
        le=MAX_PROPOSAL,
        description="Cap on the depth of the draft's proposals; 0: it is not asked.",
    )
    tree_width: int = Field(
        1, ge=1, le=MAX_TREE_WIDTH, description="Guesses behind each token; 1 is a chain."
    )
    tree_depth: int = Field(
        MAX_PROPOSAL,
        ge=1,
        le=MAX_PROPOSAL,
        description="Levels that have `tree_width` guesses; deeper ones have one.",
    )
    min_match: int = Field(
        3,
        ge=0,
        le=MAX_PROPOSAL,
        description="Tier 0 guesses where so many last tokens occurred before; 0 is off.",
    )
    max_lookup: int = Field(10, ge=1, le=MAX_PROPOSAL, description="Cap on tier 0's proposals.")
    draft_toll: float = Field(
        0.5,
        ge=0.0,
        allow_inf_nan=False,
        description="Cost of a proposal of the draft, in target steps; tier 0 is weighed by it.",
    )

    def plan(self) -> Plan:
        """The same plan as the core names it."""
        return Plan(**self.model_dump())
