"""What a step costs, out of the JSON of `s2d bench engine`, or the costs of `s2d calibrate`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s2d_ray.core.cost_model import CostModel, Provenance
from s2d_ray.errors import ConfigError

LARGEST_BYTES = 2**20


def default_costs() -> Path:
    """A recorded run of `s2d bench engine --quick`; it names its hardware and commit."""
    return Path(__file__).with_name("costs.json")


def load_costs(path: Path) -> CostModel:
    """Read a result of `s2d bench engine`, `--curves` or whole, or `costs-TARGET.json` of
    `s2d calibrate`. Raises ConfigError naming it."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ConfigError(f"{path}: larger than any result of `s2d bench engine`")
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path}: not JSON; give a result of `s2d bench engine`") from None
    try:
        return parse_costs(tree)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: no result of `s2d bench engine --curves`: {type(error).__name__}: {error}"
        ) from None


def parse_costs(tree: Mapping[str, Any]) -> CostModel:
    """From the parsed JSON; that of the bench has no hop. Raises KeyError, TypeError or ValueError
    if it is something else."""
    if "draft_ms" in tree:
        return CostModel.from_json(tree)
    curves, card = tree["curves_ms"], tree["card"]
    forward = {_shape(name): float(ms) / 1e3 for name, ms in curves["forward"].items()}
    prefill = {int(name): float(ms) / 1e3 for name, ms in curves["prefill"].items()}
    draft = {}
    # The first precision is the config's own.
    for name, ms in next(iter(curves["draft"].values())).items():
        layers, _, shape = name.partition(" layers, ")
        draft[int(layers), _shape(shape)[0]] = float(ms) / 1e3
    origin = Provenance(f"{card['target']}, {card['cpu']}", str(card["commit"]), "")
    return CostModel(draft, forward, prefill, 0.0, origin)


def _shape(name: str) -> tuple[int, int]:
    """ "4 × 1" → (4, 1)"""
    first, second = name.split(" × ")
    return int(first), int(second)
