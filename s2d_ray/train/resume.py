"""A training run on disk: one file to go on from, replaced in one step, and a log of its losses.

Tensors and JSON only: weights that train, moments of the optimiser, the place in the run. The order
of the texts and the learning rate follow from the place, and nothing in a step is random.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from s2d_ray.errors import DataError
from s2d_ray.job_folder import write_atomically

STATE = "resume.safetensors"
LOG = "log.jsonl"


@dataclass
class Progress:
    """The place in a run. best_loss: the lowest of all evaluations; stale: evaluations since it.

    tokens: output tokens trained on. ended: whether nothing is left to do.
    """

    step: int = 0
    tokens: int = 0
    best_loss: float = float("inf")
    stale: int = 0
    ended: bool = False
    evaluations: list[dict[str, Any]] = field(default_factory=list)


def save(
    folder: Path, progress: Progress, module: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Replace the file to go on from."""
    tensors = {f"weight.{name}": value for name, value in _trained(module).items()}
    names = list(_trained(module))
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"{key}.{names[index]}": value for key, value in moments.items()}
    partial = folder / f"{STATE}.partial"
    own = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(own, partial, metadata={"progress": json.dumps(asdict(progress))})
    os.replace(partial, folder / STATE)


def load(folder: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
    """Go on where the file says; from the start if there is none. Raises DataError if damaged."""
    path = folder / STATE
    if not path.exists():
        return Progress()
    try:
        with safe_open(path, "pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _take(tensors, module, optimiser)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be used: {reason}; remove it to start anew") from None
    return progress


def _take(tensors: dict[str, Tensor], module: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    moments: dict[int, dict[str, Tensor]] = {}
    for index, (name, weight) in enumerate(_trained(module).items()):
        with torch.no_grad():
            weight.copy_(tensors[f"weight.{name}"])
        keys = ("step", "exp_avg", "exp_avg_sq")
        moments[index] = {key: tensors[f"{key}.{name}"] for key in keys}
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})


def _trained(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


class Log:
    """One JSON line per step; a run that goes on cuts what was logged behind its place."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / LOG
        held = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        write_atomically(path, "".join(f"{line}\n" for line in held[:step]))
        self._file = path.open("a", encoding="utf-8")

    def add(self, **fields: float) -> None:
        """Write one line."""
        self._file.write(json.dumps(fields) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()
