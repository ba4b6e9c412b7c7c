"""Loading of decoder checkpoints: device, precision, and the seams put in place of stock layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils.logging import disable_progress_bar

from s2d_ray.config import Device, Precision
from s2d_ray.errors import ModelError
from s2d_ray.models.attention import IMPLEMENTATION
from s2d_ray.models.families import check_family
from s2d_ray.models.linear import LinearKind, replace_linears
from s2d_ray.models.placement import LayerMap, spread_over_gpus

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.float32,
    "int4": torch.float32,
}


def choose_device(device: Device) -> torch.device:
    """`auto` is a GPU if torch sees one. Raises ModelError if `cuda` is asked for in vain."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device: cuda was asked for, but torch sees no GPU; use auto or cpu")
    use_gpu = device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_gpu else "cpu")


def linear_kind(precision: Precision, device: torch.device) -> LinearKind:
    """Which linear layer serves a precision. Raises ModelError for int4 or int8 on a GPU."""
    if precision in ("int8", "int4"):
        if device.type != "cpu":
            raise ModelError(f"precision: {precision} runs on the CPU only; use bfloat16 on a GPU")
        return precision
    packs = precision == "float32" and device.type == "cpu" and torch.backends.mkldnn.is_available()
    return "packed" if packs else "portable"


def read_config(folder: Path) -> PretrainedConfig:
    """The checkpoint's config. Raises ModelError if its family or rope scaling is not supported."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: config.json cannot be read: {error}") from None
    check_family(json.loads((folder / "config.json").read_text()), str(folder))
    return config


def load_decoder(folder: Path, dtype: torch.dtype, place: torch.device | LayerMap) -> nn.Module:
    """The family's own causal LM with stock linears and ragged attention, in eval mode.

    place: one device for all of it, or each layer's.
    Raises ModelError if a weight is missing, damaged or of another shape than the config says.
    """
    read_config(folder)
    disable_progress_bar()  # it would write into the log of a replica
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=IMPLEMENTATION,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            device_map=place if isinstance(place, dict) else None,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: weights cannot be loaded: {error}") from None
    model, info = loaded
    if missing := sorted(info["missing_keys"]):  # transformers would fill them with noise
        raise ModelError(f"{folder}: weights cannot be loaded: {missing[0]} is missing")
    decoder: nn.Module = model.eval()
    return decoder if isinstance(place, dict) else decoder.to(place)


def load_target_decoder(
    folder: Path, precision: Precision, device: torch.device, num_gpus: int = 1
) -> nn.Module:
    """A target's network with the linear layers of its precision.

    num_gpus: how many GPUs its layers are spread over, if `device` is one.
    """
    kind = linear_kind(precision, device)
    place: torch.device | LayerMap = device
    if device.type == "cuda" and num_gpus > 1:
        place = spread_over_gpus(read_config(folder), _DTYPES[precision], num_gpus)
    decoder = load_decoder(folder, _DTYPES[precision], place)
    replace_linears(decoder, kind)
    own_memory(decoder)
    return decoder


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Parameters only: rounded buffers, rope frequencies above all, would be another model."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def own_memory(module: nn.Module) -> None:
    """Copy what is left of a checkpoint: one tensor of a mapped file keeps all of it resident."""
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()


def compute_dtype(precision: Precision) -> torch.dtype:
    """The dtype of activations and of the KV pool."""
    return _DTYPES[precision]
