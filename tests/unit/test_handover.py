"""When a replica that is to end lets its streams go, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from s2d_ray.engine.messages import (
    HANDED_OVER,
    Delta,
    Event,
    Finished,
    FinishReason,
    Refused,
    Started,
    Usage,
)
from s2d_ray.serve.handover import AFTER_S, Handover

FINISHED = Finished(FinishReason.STOP, Usage(3))


class House:
    """A replica, what Serve means to do with it, and another replica or none."""

    def __init__(self, *, ending: bool = True, other: str | None = "mine") -> None:
        self.now_s = 0.0
        self.num_questions = 0
        self._ending = ending
        self._other = other
        self.handover = Handover("mine", self.is_ending, self.others, lambda: self.now_s)

    async def is_ending(self) -> bool:
        self.num_questions += 1
        return self._ending

    async def others(self) -> str:
        if self._other is None:
            raise TimeoutError
        return self._other

    def look_at(self, now_s: float) -> bool:
        self.now_s = now_s
        asyncio.run(self.handover.look())
        return self.handover.is_due


def test_serve_is_asked_only_once_it_has_not_asked_for_long() -> None:
    house = House()
    assert not house.look_at(AFTER_S - 1)
    house.handover.asked()
    assert not house.look_at(2 * AFTER_S - 2)
    assert house.num_questions == 0
    assert house.look_at(2 * AFTER_S)
    assert house.look_at(3 * AFTER_S)
    assert house.num_questions == 1


def test_a_replica_that_is_kept_after_all_keeps_its_streams() -> None:
    house = House()
    assert house.look_at(AFTER_S)
    house.handover.asked()
    assert not house.look_at(AFTER_S + 1)


@pytest.mark.parametrize("house", [House(ending=False), House(other="another print")])
def test_streams_stay_if_it_is_not_ending_or_only_others_are_there(house: House) -> None:
    assert not house.look_at(2 * AFTER_S)


def test_streams_stay_if_there_is_nobody() -> None:
    house = House(other=None)
    with pytest.raises(TimeoutError):
        house.look_at(2 * AFTER_S)
    assert not house.handover.is_due


def test_a_stream_is_let_go_behind_a_bundle_and_its_writer_closed() -> None:
    house = House()
    closed = []

    async def write() -> AsyncGenerator[tuple[Event, ...], None]:
        try:
            for bundle in ((Started(3), Delta("a")), (Delta("b"), FINISHED)):
                yield bundle
        finally:
            closed.append(True)

    async def told(due_behind: Event) -> list[Event]:
        events = []
        async for bundle in house.handover.until_due(write()):
            events += bundle
            house.handover.is_due = house.handover.is_due or due_behind in bundle
        return events

    *events, last = asyncio.run(told(due_behind=Delta("a")))
    assert events == [Started(3), Delta("a")]
    assert isinstance(last, Refused)
    assert (last.status, last.code) == (503, HANDED_OVER)
    assert closed == [True]
    house.handover.asked()
    assert asyncio.run(told(due_behind=FINISHED))[-1] == FINISHED
