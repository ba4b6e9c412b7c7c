"""The target's side of the draft call: one outstanding call, deadlines, a new draft, no draft."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import pytest

from s2d_ray.engine.breaker import Circuit, CircuitBreaker
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.protocol import PROTOCOL_VERSION, ProposeCall, ProposeReply

SHORT_S = 0.02
LONG_S = 60.0

Answer = Future[ProposeReply]


class Line:
    """A way to send calls whose answers a test gives by hand."""

    def __init__(self) -> None:
        self.calls: list[ProposeCall] = []
        self.answers: list[Answer] = []
        self.sent = threading.Semaphore(0)
        self.at_once = False

    def send(self, call: ProposeCall) -> Answer:
        answer: Answer = Future()
        self.calls.append(call)
        self.answers.append(answer)
        if self.at_once:
            self.answer(-1)
        self.sent.release()
        return answer

    def answer(self, index: int) -> None:
        self.answers[index].set_result(ProposeReply(self.calls[index].call_no, ()))


def call(number: int) -> ProposeCall:
    return ProposeCall("replica", number, 0.0, ())


def connected(line: Line, deadline_s: float = SHORT_S, force_s: float = SHORT_S) -> DraftClient:
    client = DraftClient(deadline_s, force_s)
    client.connect(line.send, epoch=1)
    return client


@pytest.fixture
def line() -> Line:
    return Line()


def test_an_answer_in_time_is_returned(line: Line) -> None:
    line.at_once = True
    client = connected(line, LONG_S)
    assert client.propose(call(1), force=False) == ProposeReply(1, ())
    assert client.counters["calls_answered"] == 1


@pytest.mark.parametrize(("force", "deadline_s"), [(False, 3.0), (True, 7.0)])
def test_the_budget_is_below_the_deadline_of_the_mode(
    line: Line, force: bool, deadline_s: float
) -> None:
    line.at_once = True
    client = connected(line, deadline_s=3.0, force_s=7.0)
    client.propose(call(1), force)
    assert 0.0 < line.calls[0].budget_ms < 1_000 * deadline_s
    assert line.calls[0].budget_ms > 500 * deadline_s


def test_without_a_draft_nothing_is_sent() -> None:
    client = DraftClient(SHORT_S, SHORT_S)
    assert not client.available()
    assert client.circuit is Circuit.OPEN
    assert client.propose(call(1), force=True) is None
    assert client.counters["calls_not_sent"] == 1


def test_a_late_call_blocks_the_next_one_so_that_only_one_is_outstanding(line: Line) -> None:
    client = connected(line)
    assert client.propose(call(1), force=False) is None
    assert not client.available()
    assert client.propose(call(2), force=False) is None
    assert [sent.call_no for sent in line.calls] == [1]
    assert client.counters == {"calls_late": 1, "calls_not_sent": 1}


def test_a_late_reply_is_thrown_away_and_frees_the_line(line: Line) -> None:
    client = connected(line)
    client.propose(call(1), force=False)
    line.answer(0)
    line.at_once = True
    assert client.available()
    reply = client.propose(call(2), force=False)
    assert reply is not None
    assert reply.call_no == 2


def test_a_forced_call_waits_for_the_outstanding_one(line: Line) -> None:
    client = connected(line, SHORT_S, LONG_S)
    assert client.propose(call(1), force=False) is None
    line.sent.acquire()
    replies: list[ProposeReply | None] = []
    thread = threading.Thread(target=lambda: replies.append(client.propose(call(2), force=True)))
    thread.start()
    assert not line.sent.acquire(timeout=0.1), "the second call went out beside the first"
    line.at_once = True
    line.answer(0)
    thread.join(LONG_S)
    assert replies == [ProposeReply(2, ())]


def test_a_forced_call_gives_up_on_a_draft_that_never_answers(line: Line) -> None:
    client = connected(line)
    client.propose(call(1), force=True)
    assert client.propose(call(2), force=True) is None
    assert len(line.calls) == 1


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_an_outstanding_call_may_end_in_any_way(line: Line, end: str) -> None:
    client = connected(line)
    client.propose(call(1), force=False)
    if end == "failed":
        line.answers[0].set_exception(RuntimeError("the draft died"))
    else:
        line.answers[0].cancel()
    line.at_once = True
    assert client.propose(call(2), force=True) == ProposeReply(2, ())


def test_a_call_that_raises_means_no_proposal(line: Line) -> None:
    def dead(call: ProposeCall) -> Answer:
        raise ConnectionError("no such actor")

    client = DraftClient(SHORT_S, SHORT_S)
    client.connect(dead, epoch=1)
    assert client.propose(call(1), force=False) is None
    assert client.counters["calls_failed"] == 1
    assert client.available(), "one failure does not open the circuit"


def test_failures_open_the_circuit_for_auto_calls_only(line: Line) -> None:
    def broken(call: ProposeCall) -> Answer:
        answer = line.send(call)
        answer.set_exception(RuntimeError("no"))
        return answer

    client = DraftClient(SHORT_S, SHORT_S, CircuitBreaker(2, LONG_S, LONG_S))
    client.connect(broken, epoch=1)
    client.propose(call(1), force=False)
    client.propose(call(2), force=False)
    assert client.circuit is Circuit.OPEN
    assert not client.available()
    client.propose(call(3), force=True)
    assert line.calls[-1].call_no == 3


def test_a_new_draft_starts_with_a_clean_record(line: Line) -> None:
    client = DraftClient(SHORT_S, SHORT_S, CircuitBreaker(1, LONG_S, LONG_S))
    client.connect(line.send, epoch=1)
    client.propose(call(1), force=False)
    assert not client.available()
    fresh = Line()
    fresh.at_once = True
    client.connect(fresh.send, epoch=2)
    assert client.available()
    assert client.circuit is Circuit.CLOSED
    assert client.propose(call(2), force=False) == ProposeReply(2, ())


def test_connecting_to_the_same_draft_again_forgives_nothing(line: Line) -> None:
    client = connected(line)
    client.propose(call(1), force=False)
    client.connect(line.send, epoch=1)
    assert not client.available()


def test_after_a_disconnect_nothing_is_sent(line: Line) -> None:
    client = connected(line)
    client.disconnect()
    assert not client.available()
    assert client.propose(call(1), force=True) is None
    assert line.calls == []


@pytest.mark.parametrize("version", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
def test_a_draft_of_another_protocol_is_never_asked_and_counted_once(
    line: Line, version: int
) -> None:
    """Told each second which draft lives; another life of such a draft counts again."""
    line.at_once = True
    client = connected(line, LONG_S, LONG_S)
    for epoch in (2, 2, 3, 3, 3):
        client.connect(line.send, epoch, version)
        assert not client.available()
        assert client.circuit is Circuit.OPEN
        assert client.propose(call(1), force=True) is None
    assert line.calls == []
    assert client.counters == {"foreign_drafts": 2, "calls_not_sent": 5}
    client.connect(line.send, 4)
    assert client.propose(call(2), force=False) == ProposeReply(2, ())
