"""What work costs on one machine: draft steps, target forwards, and a call of the draft.

Measured by whoever has the models (`bench/costs.py`), kept as plain values in plan files, and read
by the optimiser, the controller and the simulator. Stdlib only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from s2d_ray.core.surface import Surface


@dataclass(frozen=True)
class Provenance:
    """Where and when something was measured. host: processor or GPU; date: YYYY-MM-DD."""

    host: str
    commit: str
    date: str


@dataclass(frozen=True)
class CostModel:
    """Seconds of bare calls.

    draft_s: a draft step by (layers, rows), rows being positions of one or several texts that run
    together. forward_s: a target forward by (texts, tokens of each). prefill_s: a forward over a
    prompt of so many tokens. hop_s: a call of the draft and its answer, beside the steps. head_s:
    of a draft step, the part that scores one exit, by rows; none: it is not known, and taken for 0.
    Missing sizes are filled in, see `Surface`. Raises ValueError if that is not possible.
    """

    draft_s: Mapping[tuple[int, int], float]
    forward_s: Mapping[tuple[int, int], float]
    prefill_s: Mapping[int, float]
    hop_s: float
    origin: Provenance
    head_s: Mapping[int, float] = field(default_factory=dict)
    _draft: Surface = field(init=False, repr=False, compare=False)
    _forward: Surface = field(init=False, repr=False, compare=False)
    _prefill: Surface = field(init=False, repr=False, compare=False)
    _head: Surface | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.hop_s < math.inf:
            raise ValueError("the hop takes no negative time")
        prompts = {(tokens, 1): seconds for tokens, seconds in self.prefill_s.items()}
        surfaces = {
            "_draft": _named("draft", self.draft_s),
            "_forward": _named("forward", self.forward_s),
            "_prefill": _named("prefill", {(1, 1): self.forward_s[1, 1], **prompts}),
        }
        heads = {(rows, 1): seconds for rows, seconds in self.head_s.items()}
        object.__setattr__(self, "_head", _named("head", heads) if heads else None)
        for name, surface in surfaces.items():
            object.__setattr__(self, name, surface)  # frozen

    def draft(self, layers: int, rows: float) -> float:
        """Seconds of a draft step through the first `layers`, every exit on the way scored."""
        return self._draft.at(layers, rows)

    def forward(self, texts: float, tokens: float) -> float:
        """Seconds of a target forward over so many texts, so many tokens of each."""
        return self._forward.at(texts, tokens)

    def prefill(self, tokens: float) -> float:
        """Seconds of a forward over so many tokens of one prompt, alone."""
        return self._prefill.at(tokens, 1)

    def head(self, rows: float) -> float:
        """Seconds of scoring one exit, a part of what `draft` tells."""
        return 0.0 if self._head is None else self._head.at(rows, 1)

    @property
    def layers(self) -> tuple[int, ...]:
        """Exit layers that were measured, shallowest first."""
        return tuple(sorted({layers for layers, _ in self.draft_s}))

    def to_json(self) -> dict[str, Any]:
        """Plain values, in milliseconds."""
        return {
            "draft_ms": _nested(self.draft_s),
            "forward_ms": _nested(self.forward_s),
            "prefill_ms": {str(n): 1e3 * s for n, s in sorted(self.prefill_s.items())},
            "hop_ms": 1e3 * self.hop_s,
            "head_ms": {str(n): 1e3 * s for n, s in sorted(self.head_s.items())},
            "origin": asdict(self.origin),
        }

    @classmethod
    def from_json(cls, tree: Any) -> CostModel:
        """Raises ValueError that names what is missing, unknown or wrong."""
        if not isinstance(tree, Mapping):
            raise ValueError("costs: expected a mapping")
        wanted = {"draft_ms", "forward_ms", "prefill_ms", "hop_ms", "origin"}
        if odd := sorted(wanted ^ (set(tree) - {"head_ms"})):  # younger than version 1 of the file
            raise ValueError(f"costs: {odd[0]}: {'missing' if odd[0] in wanted else 'unknown key'}")
        try:
            return cls(
                _flat(tree["draft_ms"]),
                _flat(tree["forward_ms"]),
                {int(tokens): float(ms) / 1e3 for tokens, ms in tree["prefill_ms"].items()},
                float(tree["hop_ms"]) / 1e3,
                Provenance(**tree["origin"]),
                {int(rows): float(ms) / 1e3 for rows, ms in tree.get("head_ms", {}).items()},
            )
        except (AttributeError, TypeError, KeyError) as error:
            raise ValueError(f"costs: {type(error).__name__}: {error}") from None


def _named(name: str, points: Mapping[tuple[int, int], float]) -> Surface:
    try:
        return Surface(points)
    except ValueError as error:
        raise ValueError(f"costs: {name}: {error}") from None


def _nested(points: Mapping[tuple[int, int], float]) -> dict[str, dict[str, float]]:
    tree: dict[str, dict[str, float]] = {}
    for (first, second), seconds in sorted(points.items()):
        tree.setdefault(str(first), {})[str(second)] = 1e3 * seconds
    return tree


def _flat(tree: Mapping[str, Mapping[str, float]]) -> dict[tuple[int, int], float]:
    return {
        (int(first), int(second)): float(ms) / 1e3
        for first, inner in tree.items()
        for second, ms in inner.items()
    }
