"""What a benchmark says of host and code before its first result."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import torch
import transformers

from s2d_ray.config import AppConfig
from s2d_ray.models.fingerprint import cpu_model
from s2d_ray.models.sources import GgufFile, LocalFolder, parse_source

PACKAGE = Path(__file__).resolve().parents[1]


def host_card(config: AppConfig) -> dict[str, str]:
    """Host, versions, code, and the config's first target."""
    target = next(iter(config.targets.values()))
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": f"{cpu_model()}, {torch.get_num_threads()} threads",
        **gpu,
        "torch": f"{torch.__version__}, transformers {transformers.__version__}",
        "commit": commit(),
        "config": config_hash(config),
        "target": f"{model_name(target.model)}: {target.precision}",
    }


def commit() -> str:
    """The checkout's commit, "-dirty" if files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def model_name(source: str) -> str:
    """A model without its hash, or its place on this machine."""
    parsed = parse_source(source)
    if isinstance(parsed, GgufFile | LocalFolder):
        return parsed.path.name
    return source.partition("#")[0]


def config_hash(config: AppConfig) -> str:
    """Names what is measured: models, precisions, plan; not where the API listens."""
    tree = config.model_dump(mode="json", exclude={"http"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]
