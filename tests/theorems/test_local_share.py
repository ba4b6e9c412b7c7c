"""A ledger that dies or is out of reach: each request is admitted and charged once, whoever did it.

The real gates of two routers and the real ledger, on a virtual clock. What is between them fails:
the ledger is killed and starts again from its snapshot, a router is cut off from a ledger that goes
on, or answers to a router are lost although what it told was heard.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.errors import Overloaded, RequestError
from s2d_ray.policy import buckets
from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.grants import Grant
from s2d_ray.policy.keys import Caller, KeyTable
from s2d_ray.policy.ledger import SLOTS_AHEAD, Bounds, Granted, Ledger, Snapshot
from s2d_ray.policy.limits import Limits, Refusal
from s2d_ray.serve import tenant_gate
from s2d_ray.serve.ledger_messages import Ended, Sync
from s2d_ray.serve.tenant_gate import TenantGate
from tests.virtual_time import VirtualLoop, run_virtually

SLOTS, SHARE, CAPACITY = 2, 3, 10**6
LIMITS = Limits(tokens_per_minute=CAPACITY, max_running=4)
KILLED, CUT_OFF, DEAF = "killed", "cut off", "deaf"
TICK_S = 0.25
AFTER_ALL_S = 30.0


@dataclass(frozen=True)
class Fault:
    """gap_s: since the end of the one before. router: that is cut off or deaf."""

    gap_s: float
    length_s: float
    kind: str
    router: int


@dataclass(frozen=True)
class Request:
    at_s: float
    router: int
    tenant: str
    runs_s: float
    tokens: int
    used: int
    num_texts: int


class Watched(Ledger):
    """The ledger, telling which grants lapse."""

    lapsed: set[str]

    def _lapse(self, grant: Grant) -> None:
        self.lapsed.add(grant.id)
        super()._lapse(grant)


class World:
    """The ledger with what may go wrong between it and two routers, and all that was decided."""

    def __init__(self, loop: VirtualLoop, share: int) -> None:
        self._loop = loop
        self._snapshot: Snapshot | None = None
        self._num_lives = 0
        self._answers: dict[str, tuple[int, asyncio.Future[Granted | Refusal]]] = {}
        self.ledger: Watched | None = None
        self.out_of_reach: dict[int, str] = {}
        self.issued: dict[str, Grant] = {}
        self.told: dict[str, int] = {}
        self.given_back: set[str] = set()
        self.lapsed: set[str] = set()
        self.running: dict[str, tuple[int, Grant]] = {}
        self.most_texts = 0
        self.refused: list[RequestError] = []
        self.num_local = 0
        self.start()
        self.gates = [TenantGate(Reach(self, number), 60.0, share) for number in (0, 1)]

    def start(self) -> None:
        self._num_lives += 1
        tenants = {"a": LIMITS, "b": LIMITS}
        bounds, now_s = Bounds(1_000, 10**9), self._loop.time()
        self.ledger = Watched(bounds, tenants, f"life-{self._num_lives}", now_s, self._snapshot)
        self.ledger.lapsed = self.lapsed
        self.ledger.set_slots({"t": SLOTS})

    def kill(self) -> None:
        assert self.ledger is not None
        self._snapshot, self.ledger = self.ledger.snapshot(self._loop.time()), None
        self.lose_answers({0, 1})

    def lose_answers(self, routers: set[int]) -> None:
        for router, answer in self._answers.values():
            if router in routers and not answer.done():
                answer.set_exception(ConnectionError("lost"))

    def reach(self, router: int) -> Watched:
        if self.ledger is None or self.out_of_reach.get(router) == CUT_OFF:
            raise ConnectionError("out of reach")
        return self.ledger

    def decide(self) -> None:
        for decision in self.ledger.decide(self._loop.time()) if self.ledger else ():
            if isinstance(decision, Granted):
                self.issued[decision.grant.id] = decision.grant
            name = decision.grant.id if isinstance(decision, Granted) else decision.id
            _, answer = self._answers.get(name, (0, None))
            if answer is not None and not answer.done():
                answer.set_result(decision)

    async def admit(self, router: int, ask: Ask, wait_s: float) -> Granted | Refusal:
        ledger, now_s = self.reach(router), self._loop.time()
        answer: asyncio.Future[Granted | Refusal] = self._loop.create_future()
        self._answers[ask.id] = (router, answer)
        dated = Ask(ask.id, ask.tenant, "t", ask.tokens, now_s + wait_s, ask.num_texts)
        ledger.admit(dated, now_s)
        self.decide()
        try:
            return await answer
        except asyncio.CancelledError:
            ledger.cancel(ask.id, self._loop.time())
            if ask.id in self.issued:
                self.given_back.add(ask.id)
                ledger.finish(self.issued[ask.id], 0, self._loop.time())
            raise

    def hear(self, router: int, sync: Sync) -> KeyTable | None:
        ledger, now_s = self.reach(router), self._loop.time()
        for ended in sync.ended:
            self.told[ended.grant.id] = ended.used
            ledger.finish(ended.grant, ended.used, now_s)
        ledger.renew(sync.grants, now_s)
        self.decide()
        if self.out_of_reach.get(router) == DEAF:
            raise ConnectionError("the answer is lost")
        return None if sync.key_version else KeyTable("keys", {})

    async def one(self, request: Request) -> None:
        """A request from its arrival to its end."""
        await asyncio.sleep(request.at_s)
        gate = self.gates[request.router]
        ask = Ask("same", request.tenant, "t", request.tokens, 0.0, request.num_texts)
        try:
            grant = (await gate.admit(ask)).grant
        except RequestError as error:
            self.refused.append(error)
            return
        self._run(request.router, grant)
        await asyncio.sleep(request.runs_s)
        del self.running[grant.id]
        gate.end(Ended(grant, request.used, None))

    def _run(self, router: int, grant: Grant) -> None:
        assert grant.id not in self.running
        self.running[grant.id] = (router, grant)
        self.most_texts = max(self.most_texts, sum(g.num_texts for _, g in self.running.values()))
        if grant.life.startswith("life-"):
            return
        self.num_local += 1
        self.issued[grant.id] = grant
        texts: Counter[str] = Counter()
        for of, other in self.running.values():
            if of == router and other.life == grant.life:
                texts[other.tenant] += other.num_texts
        assert texts.total() <= SHARE
        assert max(texts.values()) <= (SHARE + 1) // 2

    def charged(self, tenant: str) -> float:
        assert self.ledger is not None
        (left,) = self.ledger.allowances(tenant, self._loop.time())
        return CAPACITY - left.remaining

    def owed(self, tenant: str) -> int:
        """What each grant costs once: what was used, or all of it where nobody told in time."""
        return sum(
            self.told[grant.id]
            if grant.id in self.told and grant.id not in self.lapsed
            else grant.tokens
            for grant in self.issued.values()
            if grant.tenant == tenant and grant.id not in self.given_back
        )


class Reach:
    """The ledger as one router reaches it."""

    def __init__(self, world: World, router: int) -> None:
        self._world = world
        self._router = router

    async def admit(self, ask: Ask, wait_s: float) -> Granted | Refusal:
        return await self._world.admit(self._router, ask, wait_s)

    async def sync(self, sync: Sync) -> KeyTable | None:
        return self._world.hear(self._router, sync)

    async def usage(self, caller: Caller) -> dict[str, Any]:
        raise NotImplementedError

    async def revoke(self, key_id: str, caller: Caller) -> int | None:
        raise NotImplementedError


async def _tick(world: World) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        world.decide()


async def _fail(world: World, faults: list[Fault]) -> None:
    for fault in faults:
        await asyncio.sleep(fault.gap_s)
        if fault.kind == KILLED:
            world.kill()
        else:
            world.out_of_reach[fault.router] = fault.kind
            world.lose_answers({fault.router})
        await asyncio.sleep(fault.length_s)
        world.out_of_reach.clear()
        if world.ledger is None:
            world.start()


def run_world(requests: list[Request], faults: list[Fault], share: int = SHARE) -> World:
    """All of it, and then quiet until everything has been told."""
    loop = VirtualLoop()
    worlds: list[World] = []

    async def main() -> None:
        world = World(loop, share)
        worlds.append(world)
        for gate in world.gates:
            with pytest.raises(RequestError):  # no key was sent
                await gate.caller_of(None)
        ticking = asyncio.create_task(_tick(world))
        await asyncio.gather(_fail(world, faults), *map(world.one, requests))
        await asyncio.sleep(AFTER_ALL_S)
        ticking.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tenant_gate, "time", loop.clock())
        patch.setattr(buckets, "SECONDS", 1e15)  # no refill: what was charged can be read off
        run_virtually(loop, main())
        (world,) = worlds
        for tenant in "ab":
            assert world.charged(tenant) == world.owed(tenant)
    assert world.ledger is not None
    assert (world.ledger.running("t"), world.ledger.num_waiting) == (0, 0)
    return world


REQUESTS = st.lists(
    st.builds(
        Request,
        at_s=st.floats(0, 60),
        router=st.integers(0, 1),
        tenant=st.sampled_from("ab"),
        runs_s=st.floats(0.1, 30),
        tokens=st.integers(20, 50),
        used=st.integers(0, 20),
        num_texts=st.integers(1, 2),
    ),
    min_size=1,
    max_size=16,
)


def faults_of(*kinds: str) -> st.SearchStrategy[list[Fault]]:
    return st.lists(
        st.builds(
            Fault,
            gap_s=st.floats(0, 20),
            length_s=st.floats(0.1, 40),
            kind=st.sampled_from(kinds),
            router=st.integers(0, 1),
        ),
        max_size=3,
    )


@settings(max_examples=60, deadline=None)
@given(REQUESTS, faults_of(KILLED, CUT_OFF, DEAF))
def test_every_grant_is_charged_once_whoever_gave_it_and_whatever_fails(
    requests: list[Request], faults: list[Fault]
) -> None:
    run_world(requests, faults)


@settings(max_examples=40, deadline=None)
@given(REQUESTS, faults_of(KILLED))
def test_over_deaths_no_more_texts_run_than_the_slots_and_the_shares_of_routers(
    requests: list[Request], faults: list[Fault]
) -> None:
    world = run_world(requests, faults)
    assert world.most_texts <= int(SLOTS_AHEAD * SLOTS) + 2 * SHARE


def test_the_share_is_used_and_adopted_by_the_next_ledger() -> None:
    """Four at once on each router: two of one tenant, one of another; the last is refused."""
    requests = [Request(20.0, router, "a", 30.0, 50, 10, 1) for router in (0, 1) for _ in range(3)]
    requests += [Request(20.0, router, "b", 30.0, 50, 10, 1) for router in (0, 1)]
    world = run_world(requests, [Fault(1.0, 35.0, KILLED, 0)])
    assert (world.num_local, len(world.refused)) == (6, 2)
    assert world.ledger is not None
    assert world.ledger.counters["adopted"] == 6


def test_an_end_that_a_dying_ledger_heard_is_not_settled_by_the_next_one() -> None:
    """Its answer was lost, so that the router tells the next one too."""
    request = Request(1.0, 0, "a", 4.0, 50, 10, 1)
    world = run_world([request], [Fault(3.0, 4.0, DEAF, 0), Fault(0.0, 3.0, KILLED, 0)])
    assert world.ledger is not None
    assert world.ledger.counters["adopted"] == 0


def test_a_ledger_that_dies_before_any_router_told_it_anything_forgets_nothing() -> None:
    """The grant that the first one gave was paid for, and the third one knows it."""
    request = Request(1.0, 0, "a", 12.0, 50, 10, 1)
    faults = [Fault(3.0, 2.0, KILLED, 0), Fault(0.0, 2.0, KILLED, 0)]
    world = run_world([request], faults)
    assert world.ledger is not None
    assert (world.ledger.counters["adopted"], world.charged("a")) == (1, 10)


def test_without_a_share_a_silent_ledger_is_a_503() -> None:
    requests = [Request(20.0, 0, "a", 1.0, 50, 10, 1)]
    world = run_world(requests, [Fault(1.0, 60.0, CUT_OFF, 0)], share=0)
    (refused,) = world.refused
    assert isinstance(refused, Overloaded)
    assert (refused.code, world.num_local) == ("ledger_away", 0)
