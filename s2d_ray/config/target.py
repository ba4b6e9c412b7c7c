"""One target model and its replicas."""

from __future__ import annotations

from pydantic import Field, model_validator

from s2d_ray.config.engine import EngineConfig
from s2d_ray.config.scaling import AutoscalingConfig

TARGET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
TARGET_NAME_IN_WORDS = "1-63 letters, digits, '.', '_' or '-'"

SPARE_REQUESTS = 8
"""Requests that Serve lets through to a replica beyond what its engine takes."""

SURGE_PERCENT = 20
"""Of a target's replicas, at least one, that an update may start beyond their number; as many as
Serve replaces at a time."""

PLACEMENT_NAME = r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$"
"""Of a group of nodes; short, since names of pods are made from it."""


class TargetConfig(EngineConfig):
    """One target model and its replicas."""

    model: str = Field(description="Its source: a folder, a .gguf file, hub:… or pypi:… (above).")
    num_gpus: int = Field(
        1, ge=1, description="GPUs of one replica on a GPU; its layers are spread over them."
    )
    kv_cache_mib: int = Field(
        360,
        ge=1,
        description="MiB of keys and values of one replica; must hold a text of `max_context`.",
    )
    max_context: int = Field(2_048, ge=16, description="Longest prompt + output, in tokens.")
    default_max_tokens: int = Field(
        512, ge=1, description="Output cap of a request that sets none."
    )
    max_batch: int = Field(8, ge=1, description="Sequences decoded together by one replica.")
    max_waiting: int = Field(64, ge=0, description="Requests a replica queues beyond its batch.")
    prefill_chunk: int = Field(
        256, ge=16, description="Prompt tokens of one forward; a quarter beside running texts."
    )
    prefix_cache: bool = Field(True, description="Copy common beginnings of texts, once computed.")
    num_replicas: int = Field(1, ge=1, description="Replicas of this target.")
    autoscaling: AutoscalingConfig | None = Field(
        None, description="Replicas follow the load; none: there are always `num_replicas`."
    )
    surge: bool = Field(
        True,
        description="Updates start a successor before a replica stops; needs room for one more.",
    )
    placement: str | None = Field(
        None,
        pattern=PLACEMENT_NAME,
        description="Group of nodes that the replicas run on; `s2d serve` has one node for all.",
    )

    @property
    def max_surge_percent(self) -> int:
        """Serve's option: as many successors at once as it replaces at once, at least one."""
        return SURGE_PERCENT if self.surge else 0

    @property
    def most_replicas(self) -> int:
        """As many as there may ever be."""
        return self.num_replicas if self.autoscaling is None else self.autoscaling.max_replicas

    @model_validator(mode="after")
    def _keeps_bits(self) -> TargetConfig:
        if self.precision == "int4":
            raise ValueError("precision int4 is for a draft; a target's may be int8")
        return self

    @model_validator(mode="after")
    def _gpus_on_gpu(self) -> TargetConfig:
        if self.num_gpus > 1 and self.device == "cpu":
            raise ValueError("num_gpus is more than 1, but device is cpu")
        return self

    @model_validator(mode="after")
    def _scales(self) -> TargetConfig:
        if self.autoscaling is None:
            return self
        if "num_replicas" in self.model_fields_set:
            raise ValueError(
                "num_replicas: autoscaling chooses the number, between its min_replicas and "
                "max_replicas; leave num_replicas out"
            )
        wanted = self.autoscaling.target_ongoing_requests
        if wanted is not None and wanted > self.max_ongoing_requests:
            raise ValueError(
                f"autoscaling.target_ongoing_requests: {wanted:g} is more than a replica takes "
                f"(max_batch + max_waiting + {SPARE_REQUESTS} = {self.max_ongoing_requests}), "
                "so there would never be another one"
            )
        return self

    @property
    def max_ongoing_requests(self) -> int:
        """Serve's bound of a replica. More than the engine takes, so that the engine refuses."""
        return self.max_batch + self.max_waiting + SPARE_REQUESTS
