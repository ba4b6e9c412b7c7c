"""A target replica: tokenises, feeds the engine's thread, and hands its events out as a stream."""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ray import serve

from s2d_ray.config import TargetConfig, TelemetryConfig
from s2d_ray.engine.messages import Event, GenerateRequest, Prompt, Refused, Tokens
from s2d_ray.errors import ConfigError
from s2d_ray.serve import engine_calls
from s2d_ray.serve.forever import TELL_EVERY_S, forever
from s2d_ray.serve.handover import LOOK_EVERY_S, Handover
from s2d_ray.serve.held import HeldByLedger
from s2d_ray.serve.host import prepare_process
from s2d_ray.serve.link import DraftLink, sender
from s2d_ray.serve.metrics import ray_meter
from s2d_ray.serve.own_replica import is_ending, others_fingerprint
from s2d_ray.serve.plan_watch import LOOK_EVERY_S as PLANS_EVERY_S
from s2d_ray.serve.reins import Reins
from s2d_ray.serve.replicas import name_of
from s2d_ray.serve.scaling import HELD_REQUESTS, HELD_TOKENS, OUTSTANDING_TOKENS
from s2d_ray.serve.target_metrics import TargetTeller
from s2d_ray.serve.text_watch import TextWatcher
from s2d_ray.serve.tracing import exporter

if TYPE_CHECKING:
    from s2d_ray.engine.steering import Steering
    from s2d_ray.engine.target_engine import TargetEngine

logger = logging.getLogger("ray.serve")

REFRESH_S = 1.0
STUCK_AFTER_S = 60.0


@dataclass(frozen=True)
class TargetStatus:
    """What /health shows of one replica."""

    bitwise_exact: bool
    draft_circuit: str
    queue_depth: int
    counters: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    control: dict[str, Any] = field(default_factory=dict)


class TargetReplica:
    """One replica of one target model."""

    def __init__(
        self,
        target: dict[str, Any],
        draft: dict[str, int] | None,
        telemetry: dict[str, Any] | None = None,
    ) -> None:
        self._config = TargetConfig.model_validate(target)
        self._has_draft = draft is not None
        target_name = name_of(serve.get_replica_context().app_name)
        export = exporter(TelemetryConfig.model_validate(telemetry or {}), target_name)
        self._texts = TextWatcher(target_name, export)
        self._teller = TargetTeller(ray_meter(), target_name)
        self._reins = Reins(target_name, self._load(draft or {}))
        self._held = HeldByLedger(target_name, partial(serve.get_app_handle, "ledger"))
        fingerprint = self._engine.status().fingerprint
        self._handover = Handover(fingerprint, is_ending, others_fingerprint)
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._keep_link_fresh()),
            loop.create_task(self._keep_looking()),
            loop.create_task(self._keep_plans_fresh()),
            loop.create_task(forever(TELL_EVERY_S, self._tell)),
        ]

    def _load(self, deadlines_ms: dict[str, int]) -> Steering:
        """Have the engine run. -> what steers its plans"""
        prepare_process(self._config.num_threads)
        from s2d_ray.engine.assemble import make_target
        from s2d_ray.engine.draft_client import DraftClient
        from s2d_ray.engine.steering import Steering
        from s2d_ray.engine.turns import turns_for
        from s2d_ray.models import sources

        self._client = DraftClient(
            deadlines_ms.get("deadline_ms", 1_000) / 1_000,
            deadlines_ms.get("force_deadline_ms", 5_000) / 1_000,
        )
        self._turns = turns_for(self._config.device)
        target = make_target(
            self._config,
            sources.resolve(self._config.model),
            self._client,
            replica=uuid.uuid4().hex,
            turn=self._turns.turn,
            steering=Steering(seed=secrets.randbits(32), report=logger.info),
        )
        target.loop.start()
        self._engine: TargetEngine = target
        return target.loop.steering

    def reconfigure(self, settings: dict[str, Any]) -> None:
        """Serve hands over a new `user_config`, before the first request and when it changes.

        Serve would replace a replica that fails here, and its successor would fail too.
        """
        try:
            self._reins.take(settings)
        except ConfigError as error:
            logger.error("the control of speculation stays as it was: %s", error)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[tuple[Event, ...], None]:
        """Serve one request. Closing the generator frees its sequence before the next round."""
        with self._texts.watch(request) as (watched, observe):
            written = engine_calls.bundles(self._engine, watched)
            async with aclosing(self._handover.until_due(written)) as bundles:
                async for bundle in bundles:
                    observe(bundle)
                    yield bundle

    async def tokenize(self, prompt: Prompt) -> Tokens | Refused:
        """The ids of a prompt."""
        return await engine_calls.tokenize(self._engine, prompt)

    async def detokenize(self, token_ids: Sequence[int]) -> str | Refused:
        """The text of some ids."""
        return await engine_calls.detokenize(self._engine, token_ids)

    async def status(self) -> TargetStatus:
        """State of this replica."""
        engine = self._engine.status()
        return TargetStatus(
            bitwise_exact=engine.bitwise_exact,
            draft_circuit=str(self._client.circuit) if self._has_draft else "none",
            queue_depth=engine.queue_depth,
            counters={
                **engine.counters,
                **self._client.counters,
                "impatient_turns": self._turns.num_impatient,
            },
            fingerprint=engine.fingerprint,
            control=engine.control,
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve tells its autoscaler, if this target has one: see `scaling.load_of`."""
        held = await self._held.now()
        return {
            HELD_REQUESTS: held.num_texts,
            HELD_TOKENS: held.tokens,
            OUTSTANDING_TOKENS: self._engine.status().outstanding_tokens,
        }

    def check_health(self) -> None:
        """Serve replaces the replica if its thread has died or has not moved for a minute."""
        self._handover.asked()
        silent_s = self._engine.status().silent_s
        if silent_s > STUCK_AFTER_S:
            raise RuntimeError(f"the target's thread has not moved for {silent_s:.0f} s")

    async def _tell(self) -> None:
        circuit = self._client.circuit if self._has_draft else None
        calls = self._client.counters.copy()
        self._teller.tell(self._engine.status(), calls, circuit, self._reins.exit_layers)

    async def _keep_looking(self) -> None:
        """See now and then whether the streams are to be handed over."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._handover.look()
            except Exception as error:  # nobody to ask: keep the streams
                logger.debug("whether to hand streams over is not known: %s", error)

    async def _keep_plans_fresh(self) -> None:
        """Follow the plan file as it changes."""
        while True:
            try:
                await asyncio.to_thread(self._reins.look)
            except Exception as error:
                logger.error("the plan file cannot be followed: %s", error)
            await asyncio.sleep(PLANS_EVERY_S)

    async def _keep_link_fresh(self) -> None:
        """Ask the manager once a second which draft lives; never in the step loop."""
        manager: Any = None
        while self._has_draft:
            try:
                manager = manager or serve.get_app_handle("draft")
                async with asyncio.timeout(5 * REFRESH_S):
                    link = await manager.draft.remote()
                self._connect(link)
            except Exception as error:  # the manager is away: keep the draft we have
                logger.debug("draft manager not reached: %s", error)
                manager = None
            await asyncio.sleep(REFRESH_S)

    def _connect(self, link: DraftLink | None) -> None:
        if link is None:
            self._client.disconnect()
        else:
            self._client.connect(sender(link.actor), link.epoch, link.protocol_version)
