"""Where, and in which precision, models run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from s2d_ray.config.section import Section

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16", "int8", "int4"]


class EngineConfig(Section):
    """What targets and the draft have in common: where and in which precision they run."""

    device: Device = Field("auto", description="`auto` takes a GPU where the cluster has one.")
    precision: Precision = Field(
        "float32",
        description="int8 and int4 run on the CPU only, int4 in a draft only: its errors cost "
        "guesses, not text.",
    )
    num_threads: int = Field(0, ge=0, description="Threads of a forward; 0: all cores it may use.")

    @model_validator(mode="after")
    def _integers_on_cpu(self) -> EngineConfig:
        if self.precision in ("int8", "int4") and self.device == "cuda":
            raise ValueError(
                f"precision {self.precision} runs on the CPU only; use bfloat16 with device cuda"
            )
        return self
