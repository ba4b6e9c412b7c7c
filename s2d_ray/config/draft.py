"""The one draft that all targets share."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from s2d_ray.config.engine import EngineConfig


class DraftConfig(EngineConfig):
    """The one draft shared by all targets: a saved checkpoint, or one cut from a base model."""

    checkpoint: str | None = Field(
        None, description="Folder of a saved sorted draft, or shipped:NAME for one of the package."
    )
    base: str | None = Field(None, description="Model to cut the draft from, named like a target.")
    exit_layers: tuple[int, ...] = Field(
        (4, 8, 12), description="Layers of each sub-model, strictly rising; used with base."
    )
    head_size: int = Field(8_192, ge=256, description="Ids the exit head scores; used with base.")
    kv_cache_mib: int = Field(
        180, ge=1, description="MiB of keys, values and hidden states of all draft sessions."
    )
    deadline_ms: int = Field(1_000, ge=1, description="Longest wait of an auto round.")
    force_deadline_ms: int = Field(5_000, ge=1, description="Longest wait of a forced round.")
    prefill_chunk: int = Field(64, ge=16, description="Tokens a row may be behind and still join.")
    max_debt: int = Field(64, ge=1, description="Positions a deeper layer group may lag behind.")
    idle_s: float = Field(120.0, gt=0, description="A draft session unused this long is dropped.")
    run_ahead: bool = Field(
        False,
        description="While nobody waits, guess on behind answers; only gains on a separate device.",
    )
    health_timeout_s: float = Field(5.0, gt=0, description="Silence after which it is replaced.")
    start_timeout_s: float = Field(180.0, gt=0, description="Time it has to load.")

    @field_validator("exit_layers")
    @classmethod
    def _rising(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if (
            not layers
            or layers[0] < 1
            or any(a >= b for a, b in zip(layers, layers[1:], strict=False))
        ):
            raise ValueError("must be strictly rising numbers of layers, the first at least 1")
        return layers

    @model_validator(mode="after")
    def _one_source(self) -> DraftConfig:
        if (self.checkpoint is None) == (self.base is None):
            raise ValueError("name either checkpoint or base")
        return self
