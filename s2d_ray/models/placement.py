"""Where the layers of a model go that is bigger than one GPU: whole layers, GPU after GPU.

A forward visits the GPUs in turn, so they hold the model together but do not compute together.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import infer_auto_device_map, init_empty_weights
from accelerate.utils import get_balanced_memory
from transformers import AutoModelForCausalLM, PretrainedConfig

from s2d_ray.errors import ModelError

LayerMap = dict[str, int | str | torch.device]
"""Module name -> where its parameters lie, as `transformers` takes it."""


def spread_over_gpus(config: PretrainedConfig, dtype: torch.dtype, num_gpus: int) -> LayerMap:
    """A balanced map over the first GPUs that this process sees.

    Raises ModelError if there are fewer, or the model is too big for them.
    """
    if (seen := torch.cuda.device_count()) < num_gpus:
        raise ModelError(f"num_gpus: {num_gpus} were asked for, but torch sees {seen}")
    free = {number: torch.cuda.mem_get_info(number)[0] for number in range(num_gpus)}
    return spread(config, dtype, free)


def spread(config: PretrainedConfig, dtype: torch.dtype, free_bytes: Mapping[int, int]) -> LayerMap:
    """A map that fills GPUs of so many free bytes evenly, no layer cut in two.

    Raises ModelError if the parameters do not fit.
    """
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.tie_weights()
    whole = list(model._no_split_modules or ())
    budget = get_balanced_memory(model, dict(free_bytes), whole, dtype)
    placed: LayerMap = infer_auto_device_map(model, budget, whole, dtype)
    if not all(isinstance(place, int) for place in placed.values()):
        raise ModelError(
            f"num_gpus: the model needs {model.get_memory_footprint() / 1e9:,.1f} GB, but "
            f"{len(free_bytes)} GPUs have {sum(free_bytes.values()) / 1e9:,.1f} GB free"
        )
    return placed
