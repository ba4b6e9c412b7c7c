"""What decides about a text beside its request: two replicas alike in all of it write the same."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import torch

from s2d_ray import __version__
from s2d_ray.config import TargetConfig
from s2d_ray.core.host import cpu_model
from s2d_ray.models.lineage import hash_of_file, hash_of_weights

LIBRARIES = ("torch", "transformers", "tokenizers", "llguidance")
"""Others' code that computes, draws, reads or cuts texts."""


def fingerprint_of_target(
    config: TargetConfig, folder: Path, device: torch.device, *, bitwise_exact: bool
) -> str:
    """A hash over weights, tokenizer, precision, limits, code, device and instruction set.

    Costs one reading of the weights. A replica goes on with another's text only if these agree.
    """
    parts = {
        "weights": hash_of_weights(folder),
        "files": {path.name: hash_of_file(path) for path in sorted(folder.glob("*.json"))},
        "precision": config.precision,
        "limits": [config.max_context, config.default_max_tokens],
        "engine": __version__,
        "libraries": {name: version(name) for name in LIBRARIES},
        "device": [device.type, *_device(device)],
        "bitwise_exact": bitwise_exact,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _device(device: torch.device) -> tuple[str, str]:
    """Its name, and what kernels are chosen by."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return torch.cuda.get_device_name(device), f"{major}.{minor}"
    return cpu_model(), torch.backends.cpu.get_cpu_capability()
