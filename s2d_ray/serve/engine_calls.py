"""Calls of an engine from an event loop: its events as a stream, its refusals as events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from s2d_ray.engine.messages import (
    NO_MEMORY,
    Event,
    Finished,
    GenerateRequest,
    Prompt,
    Refused,
    Tokens,
)
from s2d_ray.errors import RequestError

if TYPE_CHECKING:
    from s2d_ray.engine.target_engine import TargetEngine


async def bundles(
    engine: TargetEngine, request: GenerateRequest
) -> AsyncGenerator[tuple[Event, ...], None]:
    """Serve one request; what is there at the same time is told at once, since each telling costs.

    Closing the generator frees its sequence before the next round.
    """
    try:
        begin = await asyncio.to_thread(engine.prepare, request)
    except RequestError as error:
        yield (_refused(error),)
        return
    except MemoryError:
        yield (NO_MEMORY,)
        return
    events: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def publish(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    begin(publish)
    ended = False
    try:
        while not ended:
            bundle = [await events.get()]
            while not events.empty():
                bundle.append(events.get_nowait())
            ended = isinstance(bundle[-1], Finished | Refused)
            yield tuple(bundle)
    finally:
        if not ended:
            engine.abort(request.request_id)


async def generate(engine: TargetEngine, request: GenerateRequest) -> AsyncGenerator[Event, None]:
    """The same, event by event."""
    async with aclosing(bundles(engine, request)) as told:
        async for bundle in told:
            for event in bundle:
                yield event


async def tokenize(engine: TargetEngine, prompt: Prompt) -> Tokens | Refused:
    """The ids of a prompt."""
    try:
        return await asyncio.to_thread(engine.tokenize, prompt)
    except RequestError as error:
        return _refused(error)


async def detokenize(engine: TargetEngine, token_ids: Sequence[int]) -> str | Refused:
    """The text of some ids."""
    try:
        return await asyncio.to_thread(engine.detokenize, token_ids)
    except RequestError as error:
        return _refused(error)


def _refused(error: RequestError) -> Refused:
    """The error as an event: Ray would wrap one that is raised."""
    return Refused(error.status, error.message, error.param, error.code)
