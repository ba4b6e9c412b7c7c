"""The HTTP edge over a real engine on a tiny random model, without Ray."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from s2d_ray.config import HttpConfig, TargetConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.assemble import make_target
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.messages import Event, GenerateRequest, Prompt, Refused, Tokens
from s2d_ray.engine.target_engine import TargetEngine
from s2d_ray.policy.routing import TargetState
from s2d_ray.serve import engine_calls
from s2d_ray.serve.backend import Health, Routing, TargetHealth, TargetInfo, refusal
from s2d_ray.serve.ingress import build_app
from tests.fakes_http import serving
from tests.tiny import tiny_checkpoint

NAME = "tiny"
MAX_CONTEXT = 1_024
"""Tools make long prompts: the tiny tokenizer has a token for each character."""


class LocalBackend:
    """A `Backend` over one engine of this process."""

    def __init__(self, engine: TargetEngine) -> None:
        self._engine = engine

    def targets(self) -> Mapping[str, TargetInfo]:
        return {NAME: TargetInfo(NAME, 1_700_000_000, "folder/tiny", MAX_CONTEXT)}

    def routing(self) -> Routing:
        return Routing(Plan(), {NAME: TargetState(True, MAX_CONTEXT, 1.0, 8, 1_000.0, 20.0)})

    async def alive(self) -> Collection[str]:
        return [NAME]

    async def generate(self, target: str, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        async with aclosing(engine_calls.generate(self._engine, request)) as events:
            async for event in events:
                yield event

    async def tokenize(self, target: str, prompt: Prompt) -> Tokens:
        tokens = await engine_calls.tokenize(self._engine, prompt)
        if isinstance(tokens, Refused):
            raise refusal(tokens)
        return tokens

    async def detokenize(self, target: str, token_ids: Sequence[int]) -> str:
        text = await engine_calls.detokenize(self._engine, token_ids)
        if isinstance(text, Refused):
            raise refusal(text)
        return text

    async def health(self) -> Health:
        status = self._engine.status()
        counters = {"queue_depth": status.queue_depth, **status.counters}
        return Health(
            True, False, {NAME: TargetHealth(True, status.bitwise_exact, "none", counters)}
        )

    async def metrics(self) -> str:
        return ""


@contextlib.contextmanager
def tiny_service(folder: Path) -> Iterator[str]:
    """A server over a tiny model that is loaded from `folder`; yields its URL."""
    config = TargetConfig(
        model=str(tiny_checkpoint(folder, layers=2)),
        device="cpu",
        num_threads=1,
        kv_cache_mib=16,
        max_context=MAX_CONTEXT,
        default_max_tokens=4,
        max_waiting=64,
    )
    target = make_target(config, folder, DraftClient(1.0, 1.0), replica="fuzz")
    target.loop.start()
    try:
        with serving(build_app(LocalBackend(target), HttpConfig())) as url:
            yield url
    finally:
        target.stop()
