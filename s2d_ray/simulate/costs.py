"""What a step costs, out of the JSON of `s2d bench engine`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from s2d_ray.bench.ideal import interpolate
from s2d_ray.errors import ConfigError

LARGEST_BYTES = 2**20
Key = TypeVar("Key")


def default_costs() -> Path:
    """A recorded run of `s2d bench engine --quick`; it names its hardware and commit."""
    return Path(__file__).with_name("costs.json")


class StepCosts:
    """Seconds of bare calls, between the measured sizes on a line.

    forward_s: a target forward by (texts, tokens of each). prefill_s: a prompt by its tokens.
    draft_s: a draft step to the shallowest exit by rows. origin: whose figures these are.
    """

    def __init__(
        self,
        forward_s: Mapping[tuple[int, int], float],
        prefill_s: Mapping[int, float],
        draft_s: Mapping[int, float],
        origin: str = "",
    ) -> None:
        """Raises ValueError if a curve has less than two points."""
        self.origin = origin
        by_tokens: dict[int, dict[int, float]] = {}
        for (texts, tokens), seconds in forward_s.items():
            by_tokens.setdefault(tokens, {})[texts] = seconds
        lines = {tokens: _line(points) for tokens, points in by_tokens.items() if len(points) > 1}
        if 1 not in lines or len(lines) < 2:
            raise ValueError("forward: needs two numbers of texts, of 1 token each and of more")

        def forward(texts: int, tokens: int) -> float:
            return _line({each: line(texts) for each, line in lines.items()})(tokens)

        self.forward = cache(forward)
        """Seconds of a step over so many texts, so many rows of each: (texts, tokens)."""
        self.prefill = _line({1: forward_s[1, 1], **prefill_s})
        """Seconds of a forward over so many prompt tokens of one text, alone."""
        self.draft = _line(draft_s)
        """Seconds of a draft step over so many rows."""

    def beside(self, tokens: int) -> float:
        """What so many prompt tokens add to a step of running texts."""
        return max(0.0, self.prefill(tokens) - self.prefill(1))


@dataclass(frozen=True)
class _Curve:
    """Never under the lowest measured value, whatever a line beyond the ends would say."""

    points: Mapping[int, float]

    def at(self, size: int) -> float:
        return max(interpolate(self.points, size), min(self.points.values()))


def _line(points: Mapping[int, float]) -> Callable[[int], float]:
    if len(points) < 2 or not all(0 < each < math.inf for each in points.values()):
        raise ValueError("a curve needs two points, all of them positive")
    return cache(_Curve(dict(points)).at)


def load_costs(path: Path) -> StepCosts:
    """Read a result of `s2d bench engine`, `--curves` or whole. Raises ConfigError naming it."""
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


def parse_costs(tree: Mapping[str, Any]) -> StepCosts:
    """From the parsed JSON. Raises KeyError, TypeError or ValueError if it is something else."""
    curves, card = tree["curves_ms"], tree["card"]
    forward = {_shape(name): float(ms) / 1e3 for name, ms in curves["forward"].items()}
    prefill = {int(name): float(ms) / 1e3 for name, ms in curves["prefill"].items()}
    # The first precision is the config's own.
    steps: dict[int, dict[int, float]] = {}
    for name, ms in next(iter(curves["draft"].values())).items():
        layers, _, shape = name.partition(" layers, ")
        steps.setdefault(int(layers), {})[_shape(shape)[0]] = float(ms) / 1e3
    origin = f"{card['target']}, {card['cpu']}, commit {card['commit']}"
    return StepCosts(forward, prefill, steps[min(steps)], origin)


def _shape(name: str) -> tuple[int, int]:
    """ "4 × 1" → (4, 1)"""
    first, second = name.split(" × ")
    return int(first), int(second)
