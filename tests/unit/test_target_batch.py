"""The target engine as a state machine: admission, packing, replies, and what it frees."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.drawing import Drawn
from s2d_ray.engine.messages import (
    OTHER_FINGERPRINT,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Mode,
    Resume,
    Started,
    TextPrompt,
    Usage,
)
from s2d_ray.engine.proposing import MAX_CLOSED
from s2d_ray.engine.protocol import (
    EMPTY_DIGEST,
    ProposeCall,
    ProposeReply,
    RowReply,
    RowStatus,
    extend_digest,
)
from s2d_ray.engine.sequence import Piece
from s2d_ray.engine.step import Step
from s2d_ray.engine.target_batch import Limits, TargetBatch
from s2d_ray.errors import RequestError, Unavailable
from s2d_ray.models.kv_pool import BLOCK, RunAllocator
from s2d_ray.models.text import Piece as Shown
from tests.scripted import DRAFTED_BY, ok

VOCAB = 50
END = 0


class Plain:
    """A sink that shows ids as letters."""

    def push(self, token_id: int) -> Piece:
        return Shown(chr(64 + token_id))

    def finish(self) -> str:
        return ""

    def token_bytes(self, token_id: int) -> bytes:
        return b""


class Bench:
    """An engine, its allocator, and a target whose every draw is one more than the token before."""

    def __init__(
        self, num_tokens: int = 64 * BLOCK, *, fingerprint: str = "", **limits: int
    ) -> None:
        values = {
            "max_context": 512,
            "default_max_tokens": 32,
            "max_batch": 8,
            "max_waiting": 4,
            "prefill_chunk": 16,
            "vocab_size": VOCAB,
        }
        self.allocator = RunAllocator(num_tokens)
        self.engine = TargetBatch(
            Limits(**{**values, **limits}),
            self.allocator,
            frozenset({END}),
            lambda params: Plain(),
            "replica",
            fingerprint,
        )

    def add(self, name: str, num_prompt: int = 3, **changes: object) -> None:
        self.engine.add(request(name, **changes), [1 + i % 9 for i in range(num_prompt)])

    def forward(self) -> Step:
        """Plan a step that must not be empty."""
        step = self.engine.plan()
        assert step is not None
        return step

    def commit(self, step: Step) -> list[tuple[str, Event]]:
        return self.engine.commit(
            step, [Drawn(1 + step.token_ids[row]) for row in step.wanted_rows]
        )

    def round(self) -> list[tuple[str, Event]]:
        """Ask nobody, forward, commit."""
        self.engine.ask(draft_available=False)
        return self.commit(self.forward())

    def ask(self) -> ProposeCall:
        call = self.engine.ask(draft_available=True)
        assert call is not None
        return call

    @property
    def num_used_blocks(self) -> int:
        return self.allocator.num_blocks - self.allocator.num_free_blocks


def request(
    name: str,
    *,
    max_tokens: int | None = 20,
    mode: Mode = Mode.AUTO,
    plan: Plan | None = None,
    sampling: SamplingParams | None = None,
    resume: Resume | None = None,
) -> GenerateRequest:
    chosen = sampling or SamplingParams(seed=1, temperature=0.0, max_tokens=max_tokens)
    return GenerateRequest(
        name, TextPrompt(""), chosen, plan or Plan(max_proposal=4), mode, resume=resume
    )


def reply_to(call: ProposeCall, *rows: RowReply) -> ProposeReply:
    return ProposeReply(call.call_no, rows)


def status(call: ProposeCall, value: RowStatus, **changes: object) -> ProposeReply:
    return reply_to(call, *(ok(row, [], status=value, **changes) for row in call.rows))


# Admission ----------------------------------------------------------------------------------------


def test_a_prompt_without_room_for_one_token_is_refused_by_field_and_limit() -> None:
    bench = Bench(max_context=40)
    bench.add("fits", num_prompt=39)
    with pytest.raises(RequestError, match="40 tokens; this target takes at most 39") as caught:
        bench.add("too long", num_prompt=40)
    assert caught.value.param == "prompt"
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.status == 400


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        Bench().add("empty", num_prompt=0)
    assert caught.value.param == "prompt"


def test_a_request_no_empty_cache_could_hold_is_refused() -> None:
    bench = Bench(num_tokens=BLOCK)
    with pytest.raises(RequestError, match="need 70 tokens of cache") as caught:
        bench.add("big", num_prompt=10, max_tokens=60)
    assert caught.value.param == "max_tokens"
    bench.add("fits", num_prompt=10, max_tokens=54)


def test_a_full_queue_is_unavailable_not_wrong() -> None:
    bench = Bench(max_batch=2, max_waiting=1)
    for name in "abc":
        bench.add(name)
    with pytest.raises(Unavailable) as caught:
        bench.add("d")
    assert caught.value.status == 503
    assert bench.engine.queue_depth == 3


def test_requests_are_admitted_in_order_even_if_a_later_one_would_fit() -> None:
    bench = Bench(num_tokens=3 * BLOCK)
    bench.add("first", max_tokens=2 * BLOCK - 3)
    bench.add("second", max_tokens=2 * BLOCK - 3)
    bench.add("small", max_tokens=5)
    step = bench.forward()
    assert len(step.segments) == 1, "one block is free, but its turn has not come"
    bench.commit(step)
    bench.engine.abort("first")
    assert len(bench.forward().segments) == 2


def test_the_batch_takes_no_more_than_its_slots() -> None:
    bench = Bench(max_batch=2)
    for name in "abcd":
        bench.add(name)
    assert len(bench.forward().segments) == 2
    assert bench.engine.queue_depth == 4


# Packing ------------------------------------------------------------------------------------------


def test_a_long_prompt_is_computed_in_chunks_and_scored_once() -> None:
    bench = Bench(prefill_chunk=16)
    bench.add("long", num_prompt=40)
    chunks = []
    for _ in range(3):
        step = bench.forward()
        chunks.append((step.segments[0].first_position, len(step.token_ids), step.wanted_rows))
        told = bench.commit(step)
    assert chunks == [(0, 16, []), (16, 16, []), (32, 8, [7])]
    assert len(told) == 1


def test_a_chunk_is_shared_by_prompts_and_never_delays_a_decoding_row() -> None:
    """Beside a running text a chunk is a quarter of what it is alone."""
    bench = Bench(prefill_chunk=64)
    bench.add("decoding")
    bench.round()
    bench.add("one", num_prompt=10)
    bench.add("two", num_prompt=20)
    step = bench.forward()
    assert [segment.num_rows for segment in step.segments] == [1, 10, 6]
    assert [count for _, count in step.drawing] == [1, 1]


def test_every_row_is_drawn_at_the_position_of_the_token_behind_it() -> None:
    bench = Bench()
    bench.add("a", num_prompt=5, mode=Mode.FORCE)
    step = bench.forward()
    assert [draw.position for draw in step.draws] == [5]
    bench.commit(step)
    call = bench.ask()
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], [7, 8, 9])))
    step = bench.forward()
    assert step.segments[0].first_position == 5
    assert [draw.position for draw in step.draws] == [6, 7, 8, 9]


def test_a_text_ends_at_the_context_s_end_with_length() -> None:
    bench = Bench(max_context=8)
    bench.add("a", num_prompt=5, max_tokens=None)
    told = [event for _ in range(3) for _, event in bench.round()]
    assert isinstance(told[-1], Finished)
    assert told[-1].reason is FinishReason.LENGTH
    assert told[-1].usage.completion_tokens == 3
    assert bench.num_used_blocks == 0


def test_without_max_tokens_the_default_holds() -> None:
    bench = Bench(default_max_tokens=2)
    bench.add("a", max_tokens=None)
    told = [event for _ in range(2) for _, event in bench.round()]
    assert isinstance(told[-1], Finished)


# Proposals ----------------------------------------------------------------------------------------


def decoding(**changes: object) -> Bench:
    """A bench with one forced request past its prefill; its ids are 1 2 3 4."""
    bench = Bench()
    bench.add("a", **{"mode": Mode.FORCE, **changes})
    bench.round()
    return bench


def test_right_guesses_are_accepted_and_counted() -> None:
    bench = decoding()
    call = bench.ask()
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], [5, 6, 9])))
    bench.commit(bench.forward())
    counters = bench.engine.counters
    assert (counters["drafted_tokens"], counters["accepted_tokens"]) == (3, 2)
    assert counters["accepted_2"] == 1


def test_a_plan_without_the_draft_is_served_by_tier_0_alone() -> None:
    """Longer proposals than the draft's cap; no call where tier 0 finds nothing, nor at the end."""
    bench = Bench()
    plan = Plan(max_proposal=0, min_match=1, max_lookup=3)
    bench.add("a", num_prompt=12, max_tokens=25, plan=plan)
    bench.round()
    while bench.engine.queue_depth:
        assert bench.engine.ask(draft_available=True) is None
        bench.commit(bench.forward())
    counters = bench.engine.counters
    assert counters["tier0_drafted"] == counters["drafted_tokens"] > 0
    assert counters["draft_calls"] == 0
    assert not bench.engine.has_closed_sessions


def test_guesses_by_who_made_them_and_where_sum_to_what_the_reply_counts() -> None:
    """Tier 0 guesses first, then a draft whose last guess is wrong."""
    bench = Bench()
    bench.add("a", num_prompt=12, max_tokens=25)
    told = bench.round()
    while not isinstance(told[-1][1], Finished):
        call = bench.engine.ask(draft_available=True)
        if call is not None:
            first = 1 + call.rows[0].token_ids[-1]
            guesses = [first, first + 1, first]
            bench.engine.take_reply(reply_to(call, ok(call.rows[0], guesses)))
        told = bench.commit(bench.forward())
    usage, counted = told[-1][1].usage, bench.engine.guesses
    assert counted.drafted.total() == usage.drafted_tokens
    assert counted.accepted.total() == usage.accepted_tokens > 0
    by_submodel = Counter[int]()
    for (drafted_by, _), count in counted.accepted.items():
        by_submodel[drafted_by] += count
    assert +by_submodel == usage.accepted_by_submodel
    assert {by for by, _ in counted.drafted} == {0, DRAFTED_BY}
    assert {place for by, place in counted.drafted if by == DRAFTED_BY} == {0, 1, 2}
    assert not counted.accepted[DRAFTED_BY, 2]
    assert bench.engine.counters["rounds"] == usage.rounds
    assert bench.engine.counters["output_tokens"] == usage.completion_tokens


def test_a_proposal_longer_than_plan_or_budget_is_cut() -> None:
    for changes, longest in (({}, 4), ({"max_tokens": 4}, 2)):
        bench = decoding(**changes)
        call = bench.ask()
        bench.engine.take_reply(reply_to(call, ok(call.rows[0], range(5, 25))))
        assert len(bench.forward().token_ids) == 1 + longest


def test_a_proposal_is_cut_behind_an_end_token() -> None:
    bench = decoding()
    call = bench.ask()
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], [5, END, 7, 8])))
    assert bench.forward().token_ids == [4, 5, END]


@pytest.mark.parametrize("tokens", [[-1], [VOCAB], [5, 6, VOCAB], [1 << 80]])
def test_a_row_with_an_illegal_id_is_ignored_and_counted(tokens: list[int]) -> None:
    bench = decoding()
    call = bench.ask()
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], tokens)))
    assert bench.forward().token_ids == [4]
    assert bench.engine.counters["illegal_rows"] == 1


def test_a_reply_to_another_call_is_late() -> None:
    bench = decoding()
    call = bench.ask()
    bench.engine.take_reply(ProposeReply(call.call_no - 1, (ok(call.rows[0], [5]),)))
    assert bench.forward().token_ids == [4]
    assert bench.engine.counters["late_replies"] == 1


@pytest.mark.parametrize("changes", [{"at_length": 3}, {"at_length": 5}, {"draft_session": "b"}])
def test_a_row_for_another_length_or_session_is_stale(changes: dict[str, object]) -> None:
    bench = decoding()
    call = bench.ask()
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], [5], **changes)))
    assert bench.forward().token_ids == [4]
    assert bench.engine.counters["stale_rows"] == 1


def test_only_the_first_of_two_rows_for_one_session_counts() -> None:
    bench = decoding()
    call = bench.ask()
    row = call.rows[0]
    bench.engine.take_reply(reply_to(call, ok(row, [5]), ok(row, [9, 9])))
    assert bench.forward().token_ids == [4, 5]
    assert bench.engine.counters["stale_rows"] == 1


def test_no_reply_is_a_miss_of_every_row_asked() -> None:
    bench = decoding(max_tokens=3)
    bench.ask()
    bench.engine.take_reply(None)
    step = bench.forward()
    assert step.token_ids == [4]
    assert bench.engine.counters["draft_misses"] == 1
    bench.commit(step)
    ((_, _), (_, event)) = bench.round()
    assert isinstance(event, Finished)
    assert event.usage.draft_misses == 1


def test_without_an_available_draft_only_forced_rows_ask() -> None:
    bench = Bench()
    bench.add("auto")
    bench.add("forced", mode=Mode.FORCE)
    bench.add("off", mode=Mode.OFF)
    bench.round()
    call = bench.engine.ask(draft_available=False)
    assert call is not None
    assert [row.draft_session for row in call.rows] == ["forced"]
    assert bench.engine.asked_forced
    assert [row.draft_session for row in bench.ask().rows] == ["auto", "forced"]


# What the draft holds -----------------------------------------------------------------------------


def test_after_an_answer_only_new_ids_are_sent() -> None:
    bench = decoding()
    call = bench.ask()
    assert (call.rows[0].base, call.rows[0].token_ids) == (0, (1, 2, 3, 4))
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], [5, 9])))
    bench.commit(bench.forward())
    (row,) = bench.ask().rows
    assert (row.base, row.token_ids) == (4, (5, 6))
    assert row.digest == extend_digest(EMPTY_DIGEST, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    ("value", "changes", "base"),
    [
        (RowStatus.WARMING, {}, 4),
        (RowStatus.BUSY, {}, 0),
        (RowStatus.NEEDS, {"needs_from": 2}, 2),
        (RowStatus.NEEDS, {"needs_from": 99}, 4),
        (RowStatus.NEEDS, {"needs_from": -9}, 0),
    ],
)
def test_each_status_says_what_to_send_next(
    value: RowStatus, changes: dict[str, object], base: int
) -> None:
    bench = decoding()
    call = bench.ask()
    bench.engine.take_reply(status(call, value, **changes))
    bench.commit(bench.forward())
    (row,) = bench.ask().rows
    assert row.base == base
    assert row.at_length == 5


def test_a_lost_session_is_sent_again_from_where_the_draft_says() -> None:
    bench = decoding()
    bench.engine.take_reply(status(bench.ask(), RowStatus.WARMING))
    bench.commit(bench.forward())
    call = bench.ask()
    assert call.rows[0].base == 4
    bench.engine.take_reply(status(call, RowStatus.NEEDS))
    assert bench.ask().rows[0].token_ids == (1, 2, 3, 4, 5)


def test_a_miss_leaves_open_what_the_draft_holds() -> None:
    bench = decoding()
    bench.ask()
    bench.engine.take_reply(None)
    bench.commit(bench.forward())
    assert bench.ask().rows[0].base == 0


# Ends ---------------------------------------------------------------------------------------------


def test_an_aborted_request_frees_its_blocks_at_once_and_its_session_with_the_next_call() -> None:
    bench = decoding()
    call = bench.ask()
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], [5])))
    bench.engine.abort("a")
    assert bench.num_used_blocks == 0
    assert bench.engine.queue_depth == 0
    assert bench.engine.plan() is None
    assert bench.engine.has_closed_sessions
    assert bench.ask().closed == ("a",)
    assert bench.engine.ask(draft_available=True) is None, "it is told once"


def test_an_abort_between_asking_and_the_reply_drops_the_reply() -> None:
    bench = decoding()
    call = bench.ask()
    bench.engine.abort("a")
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], [5])))
    assert bench.engine.plan() is None
    assert bench.num_used_blocks == 0


def test_a_waiting_request_can_be_aborted() -> None:
    bench = Bench(max_batch=1)
    bench.add("running")
    bench.add("waiting")
    bench.round()
    bench.engine.abort("waiting")
    assert bench.engine.queue_depth == 1
    assert not bench.engine.has_closed_sessions


def test_aborting_what_is_not_there_changes_nothing() -> None:
    bench = decoding()
    bench.engine.abort("nobody")
    assert bench.engine.queue_depth == 1
    assert bench.engine.counters["aborted"] == 0


def test_a_finished_text_frees_its_blocks_and_closes_its_session() -> None:
    bench = decoding(max_tokens=3)
    call = bench.ask()
    bench.engine.take_reply(reply_to(call, ok(call.rows[0], [5])))
    (_, (name, event)) = bench.commit(bench.forward())
    assert name == "a"
    assert isinstance(event, Finished)
    assert bench.num_used_blocks == 0
    assert bench.ask().closed == ("a",)


def test_without_a_draft_closed_sessions_wait_and_their_number_is_bounded() -> None:
    bench = decoding()
    for number in range(MAX_CLOSED + 10):
        bench.engine._proposing._closed.append(str(number))
    call = bench.engine.ask(draft_available=False)
    assert call is not None
    assert len(call.closed) == MAX_CLOSED


def test_after_a_failure_nothing_is_held() -> None:
    bench = Bench(max_batch=2)
    for name in "abc":
        bench.add(name)
    bench.round()
    assert sorted(bench.engine.fail_all()) == ["a", "b", "c"]
    assert bench.engine.queue_depth == 0
    assert bench.num_used_blocks == 0


def test_requests_differ_by_their_own_sampling() -> None:
    bench = Bench()
    sampling = SamplingParams(seed=9, temperature=0.5, top_p=0.8, top_k=3, max_tokens=4)
    bench.add("a", sampling=sampling)
    bench.add("b", sampling=replace(sampling, seed=10))
    first, second = bench.forward().draws
    assert first.params == sampling
    assert second.params.seed == 10


def resumed(*token_ids: int, num_chars: int, fingerprint: str = "mine") -> Resume:
    return Resume(fingerprint, token_ids, num_chars, Usage(3, len(token_ids), rounds=1))


def test_a_resumed_text_is_computed_with_its_prompt_and_goes_on() -> None:
    bench = Bench(fingerprint="mine")
    bench.add("a", max_tokens=4, mode=Mode.OFF, resume=resumed(4, 5, num_chars=2))
    step = bench.forward()
    assert step.token_ids == [1, 2, 3, 4, 5]
    assert [draw.position for draw in step.draws] == [5]
    ((_, delta),) = bench.commit(step)
    assert isinstance(delta, Delta)
    assert (delta.text, delta.token_ids) == ("F", (6,))
    _, (_, last) = bench.round()
    assert isinstance(last, Finished)
    assert (last.usage.completion_tokens, last.usage.rounds) == (4, 3)


@pytest.mark.parametrize(
    ("ids", "reason"), [((4, 5), FinishReason.LENGTH), ((4, END), FinishReason.STOP)]
)
def test_a_text_of_which_all_but_the_end_was_told_ends_without_a_forward(
    ids: tuple[int, ...], reason: FinishReason
) -> None:
    bench = Bench(fingerprint="mine")
    num_chars = sum(token_id != END for token_id in ids)
    resume = resumed(*ids, num_chars=num_chars)
    started, last = bench.engine.add(request("a", max_tokens=2, resume=resume), [1, 2, 3])
    assert started == Started(3, (1, 2, 3), "mine")
    assert isinstance(last, Finished)
    assert (last.reason, last.usage) == (reason, resume.usage)
    assert bench.engine.queue_depth == 0
    assert bench.engine.plan() is None


@pytest.mark.parametrize(
    "resume",
    [resumed(4, 5, num_chars=2, fingerprint="other"), resumed(4, 5, num_chars=3)],
    ids=["another fingerprint", "a text that reads otherwise here"],
)
def test_a_text_that_would_go_on_differently_is_refused_by_its_own_code(resume: Resume) -> None:
    bench = Bench(fingerprint="mine")
    with pytest.raises(Unavailable) as refused:
        bench.add("a", resume=resume)
    assert refused.value.code == OTHER_FINGERPRINT
    assert bench.engine.queue_depth == 0
