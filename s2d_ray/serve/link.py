"""What the draft manager tells a target: which draft lives now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2d_ray.engine.protocol import PROTOCOL_VERSION


@dataclass(frozen=True)
class DraftLink:
    """A living draft actor. `epoch` names its life; targets meet each with a clean record."""

    actor: Any
    epoch: int
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True)
class DraftStatus:
    """State of the shared draft for /health."""

    alive: bool
    num_starts: int
    pid: int | None
    last_error: str | None = None
    counters: dict[str, int] = field(default_factory=dict)
