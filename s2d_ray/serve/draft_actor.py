"""The draft actor: one process, one sorted draft, all targets. A thin shell around `DraftLoop`."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from s2d_ray.config import DraftConfig, TelemetryConfig
from s2d_ray.engine.protocol import PROTOCOL_VERSION
from s2d_ray.serve.draft_watch import draft_watch, log_as
from s2d_ray.serve.host import node_id, prepare_process, settle_openmp

if TYPE_CHECKING:
    from s2d_ray.engine.protocol import ProposeCall, ProposeReply


@dataclass(frozen=True)
class DraftHealth:
    """What the manager sees. `stuck_for_s`: age of the forward thread's present step.

    exit_layers: layers of each sub-model, the shallowest first.
    """

    pid: int
    node_id: str
    stuck_for_s: float
    protocol_version: int
    counters: dict[str, int] = field(default_factory=dict)
    exit_layers: tuple[int, ...] = ()


class DraftActor:
    """Loads the draft and answers propose calls. Methods never block the event loop."""

    def __init__(self, config: dict[str, Any], telemetry: dict[str, Any]) -> None:
        log_and_trace = TelemetryConfig.model_validate(telemetry)
        log_as(log_and_trace.log_format)
        self._watch = draft_watch(log_and_trace)
        draft_config = DraftConfig.model_validate(config)
        settle_openmp(draft_config.num_threads)
        from s2d_ray.models.draft_files import ensure_draft

        folder = ensure_draft(draft_config)  # a damaged draft is refused before torch is loaded
        prepare_process(draft_config.num_threads)
        from s2d_ray.engine.assemble import make_draft
        from s2d_ray.engine.turns import turns_for

        self._turns = turns_for(draft_config.device)
        self._loop = make_draft(draft_config, folder, turn=self._turns.turn)
        self._loop.start()

    async def propose(self, call: ProposeCall) -> ProposeReply:
        """One round of one target replica."""
        started_ns = time.time_ns()
        reply = await asyncio.wrap_future(self._loop.submit(call))
        if self._watch is not None:
            self._watch.answered(call, reply, started_ns)
        return reply

    async def health(self) -> DraftHealth:
        """Called in a concurrency group of its own, so that a busy draft still answers."""
        counters = {**self._loop.counters(), "impatient_turns": self._turns.num_impatient}
        stuck_for_s = self._loop.stuck_for_s()
        exits = self._loop.exit_layers
        return DraftHealth(os.getpid(), node_id(), stuck_for_s, PROTOCOL_VERSION, counters, exits)
