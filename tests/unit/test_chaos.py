"""`make chaos` itself: what counts as wrong and as lost, and when the next fault may strike."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from s2d_ray.serve.run_file import ProcessMark
from tests import chaos_run
from tests.chaos_faults import TOUCHES, Kind, NotNow, Part
from tests.chaos_run import Chaos, Fault, judge, recoveries
from tests.chaos_streams import Ask, End, Heard, Served, asks_of, hear

(ASK,) = asks_of(["tiny"], 1, 4)
CHUNKS = (
    {"choices": [{"index": 0, "text": "ab", "finish_reason": None}]},
    {"choices": [{"index": 0, "text": "c", "finish_reason": "length"}]},
    {"choices": [], "usage": {"completion_tokens": 3}},
)
WHOLE = Heard(End.WHOLE, 1, texts={0: "abc"}, reasons={0: "length"}, num_tokens=3)


def events(*chunks: object) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)


def answered(response: httpx.Response | Exception) -> Heard:
    """One try against a service that answers so."""

    def answer(_request: httpx.Request) -> httpx.Response:
        if isinstance(response, Exception):
            raise response
        return response

    async def ask() -> Heard:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await hear(client, ASK, 1)

    return asyncio.run(ask())


def test_a_stream_is_whole_with_its_last_event_and_equal_in_text_reason_and_tokens() -> None:
    heard = answered(httpx.Response(200, text=events(*CHUNKS) + "data: [DONE]\n\n"))
    assert heard.end is End.WHOLE
    assert heard.is_same_as(WHOLE)
    for other in (
        Heard(End.WHOLE, 1, texts={0: "abd"}, reasons={0: "length"}, num_tokens=3),
        Heard(End.WHOLE, 1, texts={0: "abc"}, reasons={0: "stop"}, num_tokens=3),
        Heard(End.WHOLE, 1, texts={0: "abc"}, reasons={0: "length"}, num_tokens=4),
    ):
        assert not heard.is_same_as(other)


def test_a_broken_stream_is_the_beginning_of_its_text_and_tells_its_seed() -> None:
    answer = httpx.Response(200, text=events(CHUNKS[0]), headers={"x-s2d-seed": "77"})
    heard = answered(answer)
    assert (heard.end, heard.seed) == (End.BROKEN, 77)
    assert heard.is_same_as(WHOLE)
    assert not heard.is_same_as(Heard(End.WHOLE, 1, texts={0: "xbc"}))


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (httpx.ConnectError("refused"), End.BROKEN),
        (httpx.Response(500, text="Internal Server Error"), End.BROKEN),
        (httpx.Response(503, text="{}", headers={"retry-after": "2"}), End.REFUSED),
        (httpx.Response(503, text="{}"), End.FAILED),
        (httpx.Response(500, text='{"error": {}}'), End.FAILED),
        (httpx.Response(200, text=events(CHUNKS[0], {"error": {"code": "lost"}})), End.FAILED),
    ],
)
def test_what_a_client_may_ask_again_is_told_from_what_failed(
    answer: httpx.Response | Exception, end: End
) -> None:
    assert answered(answer).end is end


def served(*, breaks: Sequence[float] = (), lost: str = "", is_wrong: bool = False) -> Served:
    broken = [(second, "cut") for second in breaks]
    return Served(3, 10.0, 20.0, breaks=broken, lost=lost, is_wrong=is_wrong)


def fault(kind: Kind, struck_s: float, back_s: float | None) -> Fault:
    return Fault(kind, struck_s, frozenset(), back_s)


ROUTER_LOST = fault(Kind.ROUTER_KILLED, 14.0, 16.0)


def test_the_claim_holds_for_whole_texts_and_for_those_whose_router_was_lost() -> None:
    verdict = judge([served(), served(breaks=[15.0])], [ROUTER_LOST])
    assert verdict.holds
    assert (verdict.num_texts, verdict.num_retried) == (2, 1)


@pytest.mark.parametrize(
    ("each", "faults"),
    [
        (served(is_wrong=True), [ROUTER_LOST]),
        (served(lost="500"), [ROUTER_LOST]),
        (served(breaks=[15.0]), [fault(Kind.TARGET_KILLED, 14.0, 16.0)]),
        (served(breaks=[13.0]), [ROUTER_LOST]),
        (served(breaks=[15.0]), [fault(Kind.ROUTER_KILLED, 7.0, 9.0)]),
        (served(), [fault(Kind.DRAFT_HUNG, 14.0, None)]),
    ],
)
def test_the_claim_fails_for(each: Served, faults: list[Fault]) -> None:
    """Another text, a loss, a break before or after or without a lost router, no recovery."""
    assert not judge([each], faults).holds


def test_requests_differ_in_seed_target_mode_and_features() -> None:
    asks = asks_of(["left", "right"], 12, 8)
    assert len({ask.body["seed"] for ask in asks}) == 12
    assert {ask.body["model"] for ask in asks} == {"left", "right"}
    assert {ask.body["s2d"]["mode"] for ask in asks} == {"auto", "force", "off"}
    assert sum(ask.body["temperature"] > 0 for ask in asks) > 6
    assert Ask(asks[0].body).with_mode("off").body["s2d"]["mode"] == "off"


class Played:
    """A site whose parts come back after three looks, and streams without any text."""

    def __init__(self) -> None:
        self.looks: dict[Part, int] = {}
        self.struck: list[Kind] = []
        self.open: dict[int, Served] = {}
        self.done: list[Served] = []
        self.is_over = False

    def strike(self, kind: Kind, _rng: random.Random) -> frozenset[ProcessMark]:
        assert not TOUCHES[kind] & self.looks.keys(), "it would take the last replica"
        if kind is Kind.RAYLET_KILLED and len(self.struck) % 2:
            raise NotNow
        self.struck.append(kind)
        self.looks |= dict.fromkeys(TOUCHES[kind], 3)
        return frozenset({ProcessMark(len(self.struck), 0.0)})

    def is_whole(self, part: Part, _lost: frozenset[ProcessMark]) -> bool:
        left = self.looks.pop(part, 0)
        if left > 1:
            self.looks[part] = left - 1
        return left <= 1

    def failovers(self) -> dict[str, float]:
        return {"left": 2.0, "right": 1.0}

    def run(self, _num_streams: int) -> None:
        while not self.is_over:
            time.sleep(0.001)


class Clock:
    """Time passes by sleeping only."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        self._now_s += seconds


def test_each_round_has_all_faults_in_another_order_and_waits_for_what_they_touch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where one is left out. At the end all is back, and the streams have ended."""
    monkeypatch.setattr(chaos_run, "time", Clock())
    played: Any = Played()
    lines: list[str] = []
    chaos = Chaos(played, played, 1, lines.append)
    chaos.run(60.0, 16)
    assert len(played.struck) > 2 * len(Kind)
    assert set(played.struck) == set(Kind)
    assert played.struck[:4] != played.struck[5:9]
    assert all(fault.back_s is not None for fault in chaos.faults)
    assert played.is_over
    assert chaos.num_failovers == 3
    assert any("left out" in line for line in lines)
    assert len(recoveries(played.done, chaos.faults)) == len(Kind)
