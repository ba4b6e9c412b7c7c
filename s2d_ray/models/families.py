"""Which decoder families the attention seam honours in every argument. Loads no torch."""

from __future__ import annotations

from typing import Any

from s2d_ray.errors import ModelError

FAMILIES = ("llama", "qwen2")
"""Values of `model_type`."""


def check_family(config: dict[str, Any], origin: str) -> None:
    """Refuse by name what the seams do not honour, given the content of a config.json."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"{origin}: model type {family!r} is not supported; use one of {', '.join(FAMILIES)}"
        )
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("dynamic", "longrope"):
        raise ModelError(f"{origin}: rope type {kind!r} depends on the batch and is not supported")
    if config.get("use_sliding_window"):
        raise ModelError(f"{origin}: sliding-window attention is not supported")
