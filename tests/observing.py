"""What it costs to observe: `python -m tests.observing`, without Ray.

Microseconds of CPU time, the least of seven rounds. Of a request whose events come at once: what
the watch and the sums take in a router, without Ray's own histograms and without the line of the
log. Of a round of a text: what counting its guesses takes in a target.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial

from s2d_ray.core.calibration import DEPTHS, AcceptanceModel, CalibrationMap, Knot
from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.core.proposals import Proposal
from s2d_ray.engine.guesses import Guesses, Origin
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
NUM_GUESSES = 4
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
        print(f"a request of {num_tokens} tokens: {whole - bare:.0f} µs")
    print(f"a round of {NUM_GUESSES} guesses: {await microseconds(counted()):.1f} µs")


def counted() -> Callable[[], Awaitable[None]]:
    """A round of a chain of guesses, half of them right, in a target with calibration maps."""
    knots = tuple(Knot(at / 50, at / 50, 0.0, 1.0, 9.0) for at in range(50))
    maps = tuple(CalibrationMap(4, 0.0, depth, knots) for depth in DEPTHS)
    guesses, origin = Guesses(), Origin(4, 0.7, 0)
    guesses.go_by({"chat": AcceptanceModel(maps)})
    chain = Proposal.chain(range(NUM_GUESSES))
    path = tuple(range(1, 1 + NUM_GUESSES // 2))

    async def take() -> None:
        guesses.take(REQUEST, chain, (origin,) * NUM_GUESSES, path, 1 + len(path))

    return take


if __name__ == "__main__":
    asyncio.run(main())
