"""Which decoder families the attention seam honours in every argument. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from s2d_ray.errors import ModelError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")
"""Values of `model_type`."""

_LAYER_TYPES = {"full_attention", "sliding_attention"}


def check_family(config: dict[str, Any], origin: str) -> None:
    """Refuse by name what the seams do not honour, given the content of a config.json."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"{origin}: model type {family!r} is not supported; use one of {', '.join(FAMILIES)}"
        )
    for kind in _rope_types(config):
        if kind in ("dynamic", "longrope"):
            raise ModelError(
                f"{origin}: rope type {kind!r} depends on the batch and is not supported"
            )
    if foreign := sorted(set(config.get("layer_types") or ()) - _LAYER_TYPES):
        raise ModelError(f"{origin}: layers of type {foreign[0]!r} are not supported")
    if config.get("use_bidirectional_attention"):
        raise ModelError(f"{origin}: bidirectional attention is not supported")


def _rope_types(config: dict[str, Any]) -> Iterator[str]:
    """Types of rope scaling; a family with layer types may have one for each."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    for part in (scaling, *scaling.values()):
        if isinstance(part, dict):
            yield str(part.get("rope_type", part.get("type", "default")))
