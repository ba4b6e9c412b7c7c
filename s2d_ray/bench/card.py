"""What a benchmark says of host and code before its first result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
import transformers

from s2d_ray.bench.checkout import commit
from s2d_ray.config import AppConfig
from s2d_ray.core.host import cpu_model
from s2d_ray.models.sources import GgufFile, LocalFolder, parse_source


def host_card(config: AppConfig, names: Iterable[str] = ()) -> dict[str, str]:
    """Host, versions, code, and the targets that are measured, by default the config's first."""
    targets = [config.targets[name] for name in names or list(config.targets)[:1]]
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "cpu": f"{cpu_model()}, {torch.get_num_threads()} threads",
        **gpu,
        "torch": f"{torch.__version__}, transformers {transformers.__version__}",
        "commit": commit(),
        "config": config_hash(config),
        "target": "; ".join(f"{model_name(each.model)}: {each.precision}" for each in targets),
    }


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
