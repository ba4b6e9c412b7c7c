"""What it costs a router to observe a request: `python -m tests.observing`, without Ray.

Microseconds of CPU time, the least of seven rounds, of a request whose events come at once: what
the watch and the sums take, without Ray's own histograms and without the line of the log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Started,
    TextPrompt,
    Usage,
)
from s2d_ray.observe.meter import Meter
from s2d_ray.serve.gate import OpenTicket, Ticket
from s2d_ray.serve.request_watch import RequestWatch
from s2d_ray.serve.router_metrics import RouterTeller

ROUNDS, REQUESTS = 7, 1_000
REQUEST = GenerateRequest("r", TextPrompt("x"), SamplingParams(seed=1), Plan())


def script(num_tokens: int) -> list[Event]:
    """A text as a target tells it."""
    deltas = [Delta(" a", (), (7,), ((0, 0, 0, ()),)) for _ in range(num_tokens)]
    return [Started(7), *deltas, Finished(FinishReason.LENGTH, Usage(7, num_tokens))]


async def told(events: Sequence[Event]) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


async def run(ticket: Ticket, events: Sequence[Event]) -> None:
    async for _ in ticket.run(REQUEST, told(events)):
        pass
    await ticket.close(None)


async def microseconds(request: Callable[[], Awaitable[None]]) -> float:
    """CPU time of one request."""
    rounds = []
    for _ in range(ROUNDS):
        started_s = time.process_time()
        for _ in range(REQUESTS):
            await request()
        rounds.append((time.process_time() - started_s) / REQUESTS)
    return 1e6 * min(rounds)


async def main() -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    router = RouterTeller(Meter(lambda metric: lambda value, labels: None), 50)

    async def observed(events: Sequence[Event]) -> None:
        watch = RequestWatch(router, "id", None)
        watch.goes_to("a", "named")
        await run(watch.over(OpenTicket()), events)

    for num_tokens in (1, 64):
        events = script(num_tokens)
        bare = await microseconds(partial(run, OpenTicket(), events))
        whole = await microseconds(partial(observed, events))
        print(f"{num_tokens} tokens: {whole - bare:.0f} µs, of {whole:.0f} µs in all")


if __name__ == "__main__":
    asyncio.run(main())
