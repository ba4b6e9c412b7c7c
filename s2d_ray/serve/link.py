"""What the draft manager tells a target: which draft lives now, and how it is called."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future

    from s2d_ray.engine.draft_client import Send
    from s2d_ray.engine.protocol import ProposeCall, ProposeReply


@dataclass(frozen=True)
class DraftLink:
    """A living draft actor. `epoch` names its life; targets meet each with a clean record.

    protocol_version: what the actor itself speaks; a target that speaks another decodes plainly.
    """

    actor: Any
    epoch: int
    protocol_version: int


@dataclass(frozen=True)
class DraftStatus:
    """State of the shared draft for /health.

    pid, protocol_version, exit_layers (of its sub-models, the shallowest first): of one that has
    loaded.
    """

    alive: bool
    num_starts: int
    pid: int | None
    protocol_version: int | None = None
    last_error: str | None = None
    counters: dict[str, int] = field(default_factory=dict)
    exit_layers: tuple[int, ...] = ()


def sender(actor: Any) -> Send:
    """How a target sends its calls to a draft actor."""

    def send(call: ProposeCall) -> Future[ProposeReply]:
        future: Future[ProposeReply] = actor.propose.remote(call).future()
        return future

    return send
