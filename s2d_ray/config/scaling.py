"""How the number of a target's replicas follows the load."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from s2d_ray.config.section import Section

PUSH_INTERVAL_S = 2.0
"""Between two reports of what waits and runs to Serve's controller."""

BY_REQUESTS = "s2d_ray.serve.scaling:by_requests"
BY_TOKENS = "s2d_ray.serve.scaling:by_tokens"
"""Import paths of our policies for Serve's autoscaler."""


class AutoscalingConfig(Section):
    """How many replicas a target has, by what waits and runs there; see docs/scaling.md.

    Keys that Serve has too carry Serve's names.
    """

    min_replicas: int = Field(
        1, ge=0, description="Fewest replicas; with 0 the first request waits for one to start."
    )
    max_replicas: int = Field(ge=1, description="Most replicas.")
    target_ongoing_requests: float | None = Field(
        None,
        gt=0,
        description="Requests a replica should carry, run or wait; by default ¾ of `max_batch`.",
    )
    target_outstanding_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens still to do that a replica should carry; counted in place of requests.",
    )
    upscale_delay_s: float = Field(
        10.0, ge=0, description="More replicas must be wanted for so long."
    )
    downscale_delay_s: float = Field(
        300.0, ge=0, description="Fewer replicas must be wanted for so long."
    )
    downscale_to_zero_delay_s: float | None = Field(
        None, ge=0, description="The same for the last replica; by default `downscale_delay_s`."
    )
    upscaling_factor: float = Field(
        1.0, gt=0, description="Replicas are added so many times what is missing."
    )
    downscaling_factor: float = Field(
        1.0, gt=0, description="Replicas are taken away so many times what is too much."
    )
    look_back_period_s: float = Field(
        10.0, gt=PUSH_INTERVAL_S, description="What runs is averaged over this window."
    )

    @model_validator(mode="after")
    def _one_measure(self) -> AutoscalingConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas: {self.min_replicas} is more than max_replicas, {self.max_replicas}"
            )
        if self.target_ongoing_requests and self.target_outstanding_tokens:
            raise ValueError(
                "target_outstanding_tokens counts tokens in place of requests; "
                "leave out target_ongoing_requests"
            )
        return self

    def carried_requests(self, max_batch: int) -> float:
        """What a replica should carry if requests are counted: less than a full batch by default,
        since replicas that are full while they carry what they should make what comes next wait.
        """
        return self.target_ongoing_requests or float(max(1, 3 * max_batch // 4))

    def serve_options(self, max_batch: int) -> dict[str, Any]:
        """Serve's `autoscaling_config`; whole, since in a document it replaces what code says."""
        options = self.model_dump(exclude_none=True, exclude={"target_outstanding_tokens"})
        tokens = self.target_outstanding_tokens
        carried = float(tokens) if tokens else self.carried_requests(max_batch)
        options["target_ongoing_requests"] = carried
        # Deprecated, and the one that works: Ray 2.60 defines its two variables, unused.
        options["metrics_interval_s"] = PUSH_INTERVAL_S
        options["policy"] = {"policy_function": BY_TOKENS if tokens else BY_REQUESTS}
        return options
