"""A stream over several attempts: what is told, what the next replica is asked, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.messages import (
    HANDED_OVER,
    OTHER_FINGERPRINT,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Refused,
    Resume,
    RoundCount,
    Started,
    TextPrompt,
    TokenPrompt,
    Usage,
)
from s2d_ray.errors import RequestError, Unavailable
from s2d_ray.serve.failover import MAX_LOSSES, Failover, ReplicaLost, unbroken

REQUEST = GenerateRequest("r", TextPrompt("hi"), SamplingParams(7, max_tokens=9), Plan())
STARTED = Started(2, (5, 6), "print")
OTHERS = Refused(503, "written differently here", code=OTHER_FINGERPRINT)
LOST = ReplicaLost("gone")


def delta(text: str, *ids: int) -> Delta:
    """Each of its ids was a round; the draft was silent before the last one."""
    return Delta(text, (), ids, ((0, 0, 0, ()),) * (len(ids) - 1) + ((3, 3, 1, ((4, 0),)),), 1)


def counts(plain: int, guessed: int) -> Usage:
    """Of so many rounds without guesses, and with three of which one was right."""
    return Usage(
        prompt_tokens=2,
        completion_tokens=plain + guessed,
        rounds=plain + guessed,
        drafted_tokens=3 * guessed,
        accepted_tokens=guessed,
        accepted_by_submodel={4: guessed},
        draft_misses=guessed,
        rounds_by_length=(RoundCount(0, 0, plain), RoundCount(3, 1, guessed)),
        accepted_by_rank={0: guessed},
        cached_tokens=1,
    )


FINISHED = Finished(FinishReason.LENGTH, Usage(2, 9))

Step = Event | Exception | None
"""What an attempt does: an event, an error, or silence until it is closed."""


class Replicas:
    """Plays one script for each attempt, and records requests, openings and closings."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        self._scripts = list(scripts)
        self.requests: list[GenerateRequest] = []
        self.order: list[str] = []
        self.num_failovers = 0

    async def attempt(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        number = len(self.requests)
        self.order.append(f"open {number}")
        try:
            for step in self._scripts[min(number, len(self._scripts)) - 1]:
                if isinstance(step, Exception):
                    raise step
                if step is None:
                    await asyncio.Event().wait()
                else:
                    yield step
        finally:
            self.order.append(f"close {number}")

    def count(self) -> None:
        self.num_failovers += 1

    async def told(self) -> list[Event]:
        return [event async for event in unbroken(REQUEST, self.attempt, self.count)]


def test_a_lost_text_goes_on_behind_what_was_told_under_an_id_of_its_own() -> None:
    replicas = Replicas(
        [STARTED, delta("a", 1, 2), delta("bc", 3), LOST],
        [STARTED, delta("d", 4), LOST],
        [STARTED, delta("e", 8), FINISHED],
    )
    told = asyncio.run(replicas.told())
    texts = [event.text for event in told if isinstance(event, Delta)]
    assert texts == ["a", "bc", "d", "e"]
    assert [type(event) for event in told] == [Started, Delta, Delta, Delta, Delta, Finished]
    first, second, third = replicas.requests
    assert first == REQUEST
    assert (second.request_id, third.request_id) == ("r~1", "r~2")
    assert second.prompt == third.prompt == TokenPrompt((5, 6))
    assert second.sampling == third.sampling == REQUEST.sampling
    assert second.resume == Resume("print", (1, 2, 3), 3, counts(1, 2))
    assert third.resume == Resume("print", (1, 2, 3, 4), 4, counts(1, 3))
    assert replicas.num_failovers == 2


def test_no_attempt_is_heard_beside_another() -> None:
    """The one before is closed first: what it might still say reaches nobody."""
    replicas = Replicas([STARTED, LOST], [STARTED, delta("a", 1), LOST], [STARTED, FINISHED])
    asyncio.run(replicas.told())
    assert replicas.order == [f"{what} {n}" for n in (1, 2, 3) for what in ("open", "close")]


@pytest.mark.parametrize("before", [[], [STARTED]])
def test_before_any_text_the_request_is_sent_again_as_it_was(before: list[Step]) -> None:
    """Any replica will do, also of another fingerprint: its own counts from then on."""
    other = Started(2, (5, 6), "other print")
    replicas = Replicas([*before, LOST], [other, delta("a", 1), LOST], [other, FINISHED])
    told = asyncio.run(replicas.told())
    assert [type(event) for event in told] == [Started, Delta, Finished]
    assert (replicas.requests[1].prompt, replicas.requests[1].resume) == (REQUEST.prompt, None)
    resume = replicas.requests[2].resume
    assert resume is not None
    assert resume.fingerprint == "other print"


@pytest.mark.parametrize("no", [OTHERS, Refused(503, "full", code="queue_full"), LOST])
def test_who_will_not_take_the_text_over_is_passed_by(no: Step) -> None:
    replicas = Replicas([STARTED, delta("a", 1), LOST], [no], [no], [no], [STARTED, FINISHED])
    told = asyncio.run(replicas.told())
    assert told == [STARTED, delta("a", 1), FINISHED]
    assert len(replicas.requests) == 5
    assert replicas.num_failovers == 1


def test_a_refusal_of_the_request_itself_is_told() -> None:
    """By the first replica whatever it is, by a later one if no text has been told."""
    refused = Refused(400, "too long", "prompt")
    full = Refused(503, "full", code="queue_full")
    failed = Refused(500, "the target failed while writing this text")
    assert asyncio.run(Replicas([full]).told()) == [full]
    assert asyncio.run(Replicas([LOST], [refused]).told()) == [refused]
    assert asyncio.run(Replicas([LOST], [STARTED, failed]).told()) == [STARTED, failed]


@pytest.mark.parametrize("last", [OTHERS, LOST, None, Unavailable("not deployed")])
def test_with_nobody_to_take_it_over_the_stream_waits_until_it_is_given_up(last: Step) -> None:
    """Refused, lost, silent for lack of a replica, or not deployed: the request's longest time ends
    it, and nothing stays open.
    """
    replicas = Replicas([STARTED, delta("a", 1), LOST], [last])

    async def give_up() -> None:
        async with asyncio.timeout(0.1):
            await replicas.told()

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert len(replicas.requests) >= 2
    assert replicas.order[-1] == f"close {len(replicas.requests)}"
    assert replicas.num_failovers == 0


def test_a_target_that_is_not_there_at_first_is_told_at_once() -> None:
    replicas = Replicas([Unavailable("not deployed", code="not_ready")])
    with pytest.raises(Unavailable) as raised:
        asyncio.run(replicas.told())
    assert raised.value.code == "not_ready"
    assert len(replicas.requests) == 1


def test_a_request_that_kills_replicas_kills_few() -> None:
    """Lost without a new text in between; who never took it does not count."""
    replicas = Replicas([LOST], [STARTED, delta("a", 1), LOST], [OTHERS], [STARTED, LOST])
    with pytest.raises(RequestError) as raised:
        asyncio.run(replicas.told())
    assert raised.value.code == "replica_lost"
    # Once behind "a", then twice more without another text.
    assert len(replicas.requests) == 3 + (MAX_LOSSES - 1)
    patient = Replicas(*[[STARTED, delta("a", n), LOST] for n in range(20)], [STARTED, FINISHED])
    assert asyncio.run(patient.told())[-1] == FINISHED


def test_a_text_that_is_handed_over_goes_on_however_often_it_is() -> None:
    """Nothing was lost, so it does not count as a loss, also before the first token."""
    goes = Refused(503, "to end", code=HANDED_OVER)
    replicas = Replicas(*[[STARTED, goes]] * (MAX_LOSSES + 1), [STARTED, delta("a", 1), FINISHED])
    assert asyncio.run(replicas.told()) == [STARTED, delta("a", 1), FINISHED]
    replicas = Replicas([STARTED, delta("a", 1), goes], [STARTED, delta("b", 2), FINISHED])
    assert asyncio.run(replicas.told()) == [STARTED, delta("a", 1), delta("b", 2), FINISHED]


def test_an_engine_that_tells_no_ids_is_sent_the_request_again_only_before_its_first_text() -> None:
    silent = Replicas([Started(2), LOST], [Started(2), Delta("a"), LOST])
    with pytest.raises(Unavailable) as raised:
        asyncio.run(silent.told())
    assert raised.value.code == "replica_lost"
    assert len(silent.requests) == 2


def test_a_reply_without_a_last_event_is_a_loss() -> None:
    replicas = Replicas([STARTED, delta("a", 1)], [STARTED, FINISHED])
    assert asyncio.run(replicas.told()) == [STARTED, delta("a", 1), FINISHED]


def test_closing_the_stream_closes_the_attempt() -> None:
    async def leave() -> list[str]:
        replicas = Replicas([STARTED, delta("a", 1), LOST], [STARTED, None])
        events = unbroken(REQUEST, replicas.attempt, replicas.count)
        await anext(events)
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        while len(replicas.requests) < 2:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await events.aclose()
        return replicas.order

    assert asyncio.run(leave())[-1] == "close 2"


def test_what_was_told_is_known_whatever_the_client_is_told() -> None:
    failover = Failover(REQUEST)
    assert failover.take(STARTED) is STARTED
    assert failover.take(delta("a", 1)) == delta("a", 1)
    failover.again()
    assert failover.take(STARTED) is None
