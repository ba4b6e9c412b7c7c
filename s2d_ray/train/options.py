"""What `s2d train` is asked for, and the run's identity: what may not change when it goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from s2d_ray.errors import ConfigError
from s2d_ray.train.kinds import Arithmetic, Trunk


@dataclass(frozen=True)
class Recipe:
    """Everything a trained draft depends on beside base and corpus; see `s2d train --help`.

    layers: see `kept_layers`. exit_weights: one per exit, or none for equal ones. texts: of a
    micro-batch; a step takes `accumulation` of them in each process. block_size: inner size of the
    exit blocks, 0 for none. rank: of low-rank additions.
    """

    layers: str = "first:4"
    exits: tuple[int, ...] = (2, 4)
    head_size: int = 8_192
    own_heads: bool = False
    block_size: int = 0
    trunk: Trunk = Trunk.FULL
    rank: int = 32
    arithmetic: Arithmetic = Arithmetic.FLOAT32
    distill: float = 1.0
    exit_weights: tuple[float, ...] = ()
    learning_rate: float = 8e-4
    warmup_steps: int = 20
    steps: int = 2_000
    texts: int = 8
    accumulation: int = 1
    evaluation_steps: int = 100
    patience: int = 10
    seed: int = 1

    def weights(self) -> tuple[float, ...]:
        """The exits' weights. Raises ConfigError if they are not one per exit."""
        weights = self.exit_weights or (1.0,) * len(self.exits)
        if len(weights) != len(self.exits) or not any(weights):
            raise ConfigError(
                f"--exit-weights: must be {len(self.exits)} numbers, one per exit, not all 0"
            )
        return weights


@dataclass(frozen=True)
class Run:
    """A run's identity. base_weights, corpus, start: hashes; no start: cut anew from the base.

    processes: that share each step.
    """

    base: str
    base_weights: str
    corpus: str
    start: str
    processes: int
    recipe: Recipe

    def fields(self) -> dict[str, Any]:
        """All of it, flat, as JSON has it."""
        own = asdict(self)
        flat: dict[str, Any] = json.loads(json.dumps(own.pop("recipe") | own))
        return flat


def kept_layers(spec: str, num_layers: int) -> tuple[int, ...]:
    """Which layers of the base are kept: "all", or "first:2,last:2", "0-5,28,29" and mixtures.

    Raises ConfigError if that names no increasing choice of the base's layers.
    """
    if spec == "all":
        return tuple(range(num_layers))
    kept: list[int] = []
    try:
        for part in spec.split(","):
            first, last = _range_of(part, num_layers)
            kept += range(first, last + 1)
    except ValueError:
        raise ConfigError(
            f"--layers: {spec!r} is not all, or a list such as first:2,last:2 or 0-5,28,29"
        ) from None
    rising = all(before < after for before, after in zip(kept, kept[1:], strict=False))
    if not kept or not rising or kept[0] < 0 or kept[-1] >= num_layers:
        raise ConfigError(
            f"--layers: {spec!r} must name increasing layers of the base's 0 to {num_layers - 1}"
        )
    return tuple(kept)


def _range_of(part: str, num_layers: int) -> tuple[int, int]:
    name, colon, count = part.strip().partition(":")
    if colon and name in ("first", "last"):
        first = 0 if name == "first" else num_layers - int(count)
        return first, first + int(count) - 1
    low, dash, high = part.partition("-")
    return int(low), int(high) if dash else int(low)
