"""What replicas may decide about speculation by themselves."""

from __future__ import annotations

from pydantic import Field

from s2d_ray.config.section import Section


class ControlConfig(Section):
    """What each target replica may decide about speculation by itself. Live."""

    frozen: bool = Field(
        False, description="Plans stay as they are; nothing is tried, measured or switched off."
    )
    share: float = Field(
        0.02,
        ge=0.0,
        le=0.25,
        description="Steps without speculation, to measure its benefit; 0: it never goes off.",
    )
