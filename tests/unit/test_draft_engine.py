"""The draft engine (design D3, D6): sessions are a cache, and every proposal is what a model that
knows nothing of caches, batches and lazy groups would have guessed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from s2d_ray.core.cascade import Plan
from s2d_ray.core.coupling import gumbel_noise
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.protocol import (
    ProposeCall,
    ProposeReply,
    RowReply,
    RowStatus,
)
from tests.drafting import (
    DEEP,
    LONG_BUDGET_MS,
    MIXED,
    SHALLOW,
    Recorded,
    Story,
    Targets,
    run,
    story,
)
from tests.tiny import VOCAB_SIZE, tiny_decoder, tiny_draft_network

EXITS = (2, 4, 6)
HEAD_IDS = tuple(range(0, VOCAB_SIZE, 2))
STEP_S = 0.05


@pytest.fixture(scope="module")
def decoder() -> Any:
    return tiny_decoder()


def make_engine(
    decoder: Any, cache_tokens: int = 1024, eos: Sequence[int] = (), **settings: Any
) -> tuple[DraftEngine, Recorded]:
    network = Recorded(tiny_draft_network(decoder, EXITS, HEAD_IDS, cache_tokens))
    return DraftEngine(network, eos, **settings), network


def imagine(decoder: Any, one: Story, eos: Sequence[int] = ()) -> list[tuple[int, int, float]]:
    """The oracle: (token, exit layer, confidence) guessed by stock forwards over the whole text."""
    stock = decoder.model
    stock.config._attn_implementation, ours = "sdpa", stock.config._attn_implementation
    head = decoder.lm_head.weight[list(HEAD_IDS)]
    ids, guesses, product = list(one.ids), [], 1.0
    while len(guesses) < one.plan.max_proposal and len(ids) < one.max_length:
        out = stock(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
        for number, layer in enumerate(EXITS):
            hidden = out.hidden_states[layer][0, -1]
            normed = hidden if layer == decoder.config.num_hidden_layers else stock.norm(hidden)
            scores = head @ normed + one.temperature * noise(one.seed, len(ids))
            confidence, best = torch.softmax(scores, dim=-1).max(dim=-1)
            thresholds = one.plan.exit_thresholds
            if layer == EXITS[-1] or float(confidence) >= thresholds[number]:
                break
        product *= float(confidence)
        if product < one.plan.stop_threshold:
            break
        ids.append(HEAD_IDS[int(best)])
        guesses.append((ids[-1], layer, float(confidence)))
        if ids[-1] in eos:
            break
    stock.config._attn_implementation = ours
    return guesses


def noise(seed: int, position: int) -> Tensor:
    return gumbel_noise(seed, position, torch.tensor(HEAD_IDS)).double()


def assert_guessed(reply: RowReply, expected: list[tuple[int, int, float]]) -> None:
    assert reply.status is RowStatus.OK
    assert reply.tokens == tuple(token for token, _, _ in expected)
    assert reply.drafted_by == tuple(layer for _, layer, _ in expected)
    assert reply.confidences == pytest.approx([c for _, _, c in expected], abs=1e-5)


# What is proposed --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("plan", [SHALLOW, MIXED, DEEP, Plan((0.4, 0.4), 0.1, 8)])
def test_a_proposal_is_what_stock_forwards_with_the_targets_noise_would_guess(
    decoder: Any, plan: Plan, temperature: float
) -> None:
    """Depth, tokens, confidences and the stop rule, against whole-text forwards of `transformers`
    and the cascade written out; at a temperature the draft guesses with the target's noise."""
    engine, _ = make_engine(decoder)
    one = story("x", plan=plan, temperature=temperature)
    assert_guessed(Targets(engine).settle(one), imagine(decoder, one))


@pytest.mark.parametrize("num_accepted", range(5))
@pytest.mark.parametrize("plan", [SHALLOW, MIXED, DEEP])
def test_after_a_rejection_at_any_depth_the_next_proposal_is_that_of_a_fresh_engine(
    decoder: Any, num_accepted: int, plan: Plan
) -> None:
    """propose – reject – propose: nothing of the rejected guesses is left in any layer group."""
    engine, _ = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=plan)
    guessed = targets.settle(one).tokens
    own = (guessed[num_accepted] + 1) % VOCAB_SIZE if num_accepted < len(guessed) else 3
    one.ids += [*guessed[:num_accepted], own]
    again = targets.settle(one)
    fresh = Targets(make_engine(decoder)[0]).settle(replace(one, base=0))
    assert again.tokens == fresh.tokens
    assert again.drafted_by == fresh.drafted_by
    assert_guessed(again, imagine(decoder, one))


@pytest.mark.parametrize("rolled_back", [1, 6, 14])
def test_lazy_groups_catch_up_to_what_eager_ones_would_know(decoder: Any, rolled_back: int) -> None:
    """After rounds at the shallow exit the deep groups lag. Ids are then taken back, to above the
    deep groups' fill (1, 6) and to below it (14), and the row goes deep: it guesses what an engine
    that ran everything at once guesses, having caught up several positions in one go."""
    engine, network = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=DEEP)
    targets.settle(one)
    one.plan = SHALLOW
    for _ in range(4):
        guessed = targets.settle(one).tokens
        one.ids += [*guessed[:2], 5]
    one.ids = [*one.ids[:-rolled_back], 9]
    one.base = len(one.ids) - 1
    one.plan = DEEP
    caught_up = engine.counters["caught_up_positions"]
    network.runs.clear()
    late = targets.settle(one)
    assert_guessed(late, imagine(decoder, one))
    if rolled_back < 12:
        assert engine.counters["caught_up_positions"] - caught_up >= 2
        group_0, group_1 = network.runs[:2]
        assert group_0 == (0, [1])
        assert group_1[1][0] > 2


def test_interleaved_sessions_guess_what_each_would_alone_under_eviction_and_loss(
    decoder: Any,
) -> None:
    """Five texts of two targets share a cache for four, with random rounds, commits, plans and
    rejections: each answered proposal equals the oracle's for its text alone. Counted, so that
    nothing passes by not happening: evictions, `needs`, warming, catch-up and shared steps."""
    engine, _ = make_engine(decoder, cache_tokens=256, prefill_chunk=16)
    targets = Targets(engine)
    dice = random.Random(7)
    stories = [story(f"s{n}", 9 + n, replica="ab"[n % 2], seed=n) for n in range(5)]
    statuses: list[RowStatus] = []
    for _ in range(40):
        asking = dice.sample(stories, dice.randint(2, 4))
        for one in asking:
            one.plan = dice.choice([SHALLOW, MIXED, DEEP])
            one.temperature = dice.choice([0.0, 1.0])
        for one, reply in zip(asking, targets.ask(*asking), strict=True):
            statuses.append(reply.status)
            one.base = reply.needs_from if reply.status is RowStatus.NEEDS else len(one.ids)
            if reply.status is not RowStatus.OK:
                continue
            assert_guessed(reply, imagine(decoder, one))
            accepted = reply.tokens[: dice.randint(0, len(reply.tokens))]
            one.ids += [*accepted, dice.randrange(VOCAB_SIZE)]
            if len(one.ids) > 50:
                one.ids, one.base = one.ids[:10], 10
    counters = engine.counters
    assert statuses.count(RowStatus.OK) > 60
    assert counters["evicted_sessions"] >= 3
    assert statuses.count(RowStatus.NEEDS) >= 3
    assert statuses.count(RowStatus.WARMING) >= 1
    assert counters["caught_up_positions"] >= 10
    assert counters["steps_of_several_replicas"] > 20
    assert counters["step_rows"] / counters["steps"] > 1.5


def test_rows_of_one_step_leave_at_their_own_depth(decoder: Any) -> None:
    """One step drafts a token for three rows; groups run only the rows that climb that far, and
    exits are scored only for those that may stay."""
    engine, network = make_engine(decoder)
    rows = [
        story("x", plan=replace(SHALLOW, max_proposal=1)),
        story("y", plan=Plan((1.1, 0.0), max_proposal=1)),
        story("z", plan=replace(DEEP, max_proposal=1)),
    ]
    replies = Targets(engine).ask(*rows)
    assert [reply.drafted_by for reply in replies] == [(2,), (4,), (6,)]
    assert [(group, len(segments)) for group, segments in network.runs] == [(0, 3), (1, 2), (2, 1)]
    assert network.heads == [(0, 1), (1, 1), (2, 1)]
    assert engine.counters["steps"] == 1


def test_rows_of_two_replicas_share_steps(decoder: Any) -> None:
    """The draft is batched across targets: two calls of two rows each take four steps, not
    eight, and a call that arrives between steps joins the next one."""
    engine, _ = make_engine(decoder)
    targets = Targets(engine)
    targets.send(story("x", plan=DEEP), story("y", plan=DEEP))
    engine.step(0.0)
    targets.send(story("z", plan=DEEP, replica="b"), story("x", plan=DEEP, replica="b"))
    replies = run(engine)
    assert set(replies) == {"a", "b"}
    assert engine.counters["steps_of_several_replicas"] == 3
    assert engine.counters["steps"] == 5
    assert engine.counters["step_rows"] / engine.counters["steps"] > 1.5


def test_a_proposal_ends_at_an_end_token(decoder: Any) -> None:
    """Behind EOS there is nothing to guess."""
    one = story("x", plan=replace(DEEP, max_proposal=6))
    first, second, *_ = (token for token, _, _ in imagine(decoder, one))
    assert first != second
    engine, _ = make_engine(decoder, eos=(second,))
    assert Targets(engine).settle(one).tokens == (first, second)


def test_a_tree_has_the_width_of_its_plan_on_each_level(decoder: Any) -> None:
    """Guesses hang behind the likeliest one of the level before, and the spine is the chain."""
    plan = replace(DEEP, tree_width=3, tree_depth=2)
    one = story("x", plan=plan)
    reply = Targets(make_engine(decoder)[0]).settle(one)
    assert reply.parents == (0, 0, 0, 1, 1, 1, 4, 7)
    assert reply.ranks == (0, 1, 2, 0, 1, 2, 0, 0)
    spine = tuple(reply.tokens[node] for node in (0, 3, 6, 7))
    assert spine == tuple(token for token, _, _ in imagine(decoder, replace(one, plan=DEEP)))


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_proposal_never_outgrows_the_text(decoder: Any, room: int) -> None:
    """The run was reserved for `max_length`; a guess beyond it would write into a neighbour's."""
    engine, _ = make_engine(decoder, cache_tokens=128)
    targets = Targets(engine)
    edge, neighbour = story("x", 64 - room, plan=DEEP), story("y", plan=DEEP)
    replies = targets.ask(edge, neighbour)
    assert len(replies[0].tokens) == room
    assert_guessed(replies[1], imagine(decoder, neighbour))


def test_a_plan_without_proposals_is_answered_without_a_forward(decoder: Any) -> None:
    """Length 0 means: do not speculate; the ids are taken all the same."""
    engine, network = make_engine(decoder)
    (reply,) = Targets(engine).ask(story("x", plan=Plan(max_proposal=0)))
    assert (reply.status, reply.tokens, network.runs) == (RowStatus.OK, (), [])


# The call ----------------------------------------------------------------------------------------


def test_the_same_call_twice_gives_the_same_proposal(decoder: Any) -> None:
    """Appending is idempotent: a call that is delivered twice changes nothing."""
    engine, _ = make_engine(decoder)
    targets = Targets(engine)
    one = story("x")
    (first,) = targets.ask(one)
    targets.call_no -= 1
    (second,) = targets.ask(one)
    assert second == first


def test_an_older_call_than_the_last_seen_is_dropped(decoder: Any) -> None:
    """It gets an empty reply, and the session keeps what the newer call committed."""
    engine, network = make_engine(decoder)
    targets = Targets(engine)
    one = story("x")
    targets.call_no = 4
    (newer,) = targets.ask(one)
    network.runs.clear()
    old = replace(story("x").row(), token_ids=(1, 2, 3))
    engine.receive(ProposeCall("a", 4, LONG_BUDGET_MS, (old,), closed=("x",)), 0.0)
    assert engine.finished() == [("a", ProposeReply(4, ()))]
    assert network.runs == []
    assert engine.counters["stale_calls"] == 1
    one.base = len(one.ids)
    assert targets.ask(one) == [newer]


def test_a_newer_call_ends_the_rows_of_the_older_one(decoder: Any) -> None:
    """A replica that asks again has given its last call up; no step is spent on it any more."""
    engine, network = make_engine(decoder)
    targets = Targets(engine)
    targets.send(story("x", plan=DEEP), story("y", plan=DEEP))
    engine.step(0.0)
    targets.send(story("z", plan=DEEP))
    engine.step(0.0)
    assert [len(rows) for group, rows in network.runs if group == 0] == [2, 1]
    assert [reply.call_no for _, reply in engine.finished()] == [1]


def test_no_step_is_started_beyond_the_budget(decoder: Any) -> None:
    """On a virtual clock: steps cost 50 ms, so 120 ms pay for two, 40 ms for none, and the
    reply carries what there is. The clock is the caller's; the engine has none."""
    engine, network = make_engine(decoder)
    engine.note_step_cost(STEP_S)
    targets = Targets(engine)
    for budget_ms, num_steps in ((120.0, 2), (40.0, 0), (151.0, 3)):
        network.runs.clear()
        now_s = 100.0
        targets.send(story("x", plan=DEEP), budget_ms=budget_ms, now_s=now_s)
        reply: list[tuple[str, ProposeReply]] = []
        while not reply:
            engine.step(now_s)
            now_s += STEP_S
            reply = engine.finished()
        (row,) = reply[0][1].rows
        assert (row.status, len(row.tokens)) == (RowStatus.OK, num_steps)
        assert [group for group, _ in network.runs] == [0, 1, 2] * num_steps
    assert engine.counters["rows_out_of_budget"] == 3


# Sessions are a cache ----------------------------------------------------------------------------


def test_a_lost_session_is_asked_for_again_from_its_start(decoder: Any) -> None:
    """After an eviction the draft says so instead of guessing behind ids it does not have; sent
    again, the text gets the proposal it would always have got."""
    engine, _ = make_engine(decoder, cache_tokens=64)
    targets = Targets(engine)
    one, two = story("x"), story("y")
    targets.settle(one)
    targets.settle(two)
    assert engine.counters["evicted_sessions"] == 1
    one.ids.append(3)
    (reply,) = targets.ask(one)
    assert (reply.status, reply.needs_from, reply.tokens) == (RowStatus.NEEDS, 0, ())
    assert_guessed(targets.settle(one), imagine(decoder, one))


def test_a_base_beyond_what_is_held_is_answered_with_what_is_held(decoder: Any) -> None:
    """Only the missing ids are sent again."""
    engine, _ = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=Plan(max_proposal=0))
    targets.settle(one)
    one.ids += [1, 2, 3, 4]
    one.base = 15
    (reply,) = targets.ask(one)
    assert (reply.status, reply.needs_from) == (RowStatus.NEEDS, 12)
    one.plan = DEEP
    assert_guessed(targets.settle(one), imagine(decoder, one))


def test_a_wrong_digest_is_never_drafted_behind(decoder: Any) -> None:
    """Held ids that are not the target's (of an earlier life, say) are thrown away whole."""
    engine, network = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=DEEP)
    targets.settle(one)
    one.ids[3] = (one.ids[3] + 1) % VOCAB_SIZE
    network.runs.clear()
    (reply,) = targets.ask(one)
    assert (reply.status, reply.needs_from) == (RowStatus.NEEDS, 0)
    assert network.runs == []
    assert_guessed(targets.settle(one), imagine(decoder, one))


def test_replicas_cannot_reach_each_others_sessions(decoder: Any) -> None:
    """Equal session names of two replicas are two sessions: neither reads, extends nor closes
    the other's."""
    engine, _ = make_engine(decoder)
    targets = Targets(engine)
    mine = story("x", plan=DEEP)
    targets.settle(mine)
    theirs = replace(mine, replica="b")
    (reply,) = targets.ask(theirs)
    assert (reply.status, reply.needs_from) == (RowStatus.NEEDS, 0)
    theirs.ids = [(token + 1) % VOCAB_SIZE for token in theirs.ids]
    assert_guessed(targets.settle(theirs), imagine(decoder, theirs))
    engine.receive(ProposeCall("b", 99, LONG_BUDGET_MS, (), closed=("x",)), 0.0)
    run(engine)
    assert engine.num_sessions == 1
    assert_guessed(targets.ask(mine)[0], imagine(decoder, mine))


@pytest.mark.parametrize("replicas", ["aaa", "aab"])
def test_a_full_cache_of_sessions_in_use_answers_busy(decoder: Any, replicas: str) -> None:
    """No row that is being drafted loses its session to another, not even to one of its own
    call; once they are answered the newcomer gets the place of the one unused for longest."""
    engine, _ = make_engine(decoder, cache_tokens=128)
    targets = Targets(engine)
    rows = [
        story(name, plan=DEEP, replica=replica)
        for name, replica in zip("xyz", replicas, strict=True)
    ]
    replies = targets.ask(*rows)
    for one, reply in zip(rows[:2], replies, strict=False):
        assert_guessed(reply, imagine(decoder, one))
    assert replies[2].status is RowStatus.BUSY
    assert engine.counters["evicted_sessions"] == 0
    targets.ask(rows[0])
    assert_guessed(targets.ask(rows[2])[0], imagine(decoder, rows[2]))
    rows[0].base = len(rows[0].ids)
    assert targets.ask(rows[0])[0].status is RowStatus.OK
    assert engine.counters["evicted_sessions"] == 1


def test_a_text_that_can_never_fit_is_busy_and_evicts_nobody(decoder: Any) -> None:
    """A target then decodes plainly; emptying the cache would not help it."""
    engine, _ = make_engine(decoder, cache_tokens=128)
    targets = Targets(engine)
    targets.settle(story("x"))
    (reply,) = targets.ask(story("y", max_length=129))
    assert reply.status is RowStatus.BUSY
    assert engine.num_sessions == 1


def test_a_text_that_grows_beyond_its_reservation_gets_a_larger_one(decoder: Any) -> None:
    """The session is opened anew; its old blocks are free."""
    engine, network = make_engine(decoder, cache_tokens=192)
    targets = Targets(engine)
    one = story("x")
    targets.settle(one)
    one.max_length = 100
    assert_guessed(targets.settle(one), imagine(decoder, one))
    assert network.pool.allocator.num_free_blocks == 1


def test_closed_and_idle_sessions_give_their_blocks_back(decoder: Any) -> None:
    """`closed` is a hint, idle expiry the truth; a session in use does not expire."""
    engine, network = make_engine(decoder, cache_tokens=256, idle_s=10.0)
    targets = Targets(engine)
    targets.ask(story("x"), story("y"), story("z"))
    targets.send(story("z"), now_s=5.0, closed=("x", "unknown"))
    run(engine, 5.0)
    assert engine.num_sessions == 2
    engine.expire(10.5)
    assert engine.num_sessions == 1
    assert engine.counters["expired_sessions"] == 1
    targets.send(story("z"), now_s=6.0)
    engine.expire(1000.0)
    assert engine.num_sessions == 1
    run(engine)
    engine.expire(1000.0)
    assert network.pool.allocator.num_free_blocks == 4


@pytest.mark.parametrize("ended", [False, True])
def test_a_text_that_begins_like_one_of_another_target_is_computed_from_there(
    decoder: Any, ended: bool
) -> None:
    """Only committed blocks that every group has computed are copied, from texts in use and ended
    ones, within their salt; the guesses are the same."""
    engine, network = make_engine(decoder, cache_tokens=1024)
    targets = Targets(engine)
    first = story("x", length=150, plan=DEEP, max_length=170, replica="a")
    targets.settle(first)
    targets.send(story("w"), closed=("x",) if ended else ())
    run(engine)
    later = Story("y", [*first.ids[:140], *range(30)], DEEP, max_length=200, replica="b")
    guessed = targets.settle(later)
    assert network.copies == [128]
    assert_guessed(guessed, imagine(decoder, later))
    targets.settle(replace(later, name="z", base=0, replica="c", salt="other"))
    assert network.copies == [128]


@pytest.mark.parametrize("ended", [False, True])
def test_guesses_are_not_lent_before_they_are_committed(decoder: Any, ended: bool) -> None:
    """The last of 128 ids is a guess when it is computed; a text with the same id there must wait
    for the call that commits it, which never comes if the text ends."""
    engine, network = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", length=126, plan=DEEP, max_length=140)
    one.ids += targets.settle(one).tokens[:1]
    guessed = targets.settle(one).tokens
    targets.send(story("w"), closed=("x",) if ended else ())
    run(engine)
    same = Story("y", [*one.ids, *guessed, 1], DEEP, max_length=140, replica="b")
    targets.settle(same)
    assert network.copies == [64]
    if not ended:
        one.ids += guessed
        targets.settle(one)
        targets.settle(replace(same, name="z", base=0))
        assert network.copies == [64, 128]


def test_what_only_the_first_group_has_computed_is_not_lent(decoder: Any) -> None:
    """A text at the shallow exit has no keys of the deep groups to give."""
    engine, network = make_engine(decoder, prefill_chunk=256, max_debt=256)
    targets = Targets(engine)
    one = story("x", length=100, plan=SHALLOW, max_length=140)
    one.ids += targets.settle(one).tokens
    targets.settle(one)
    other = Story("y", [*one.ids, 5], DEEP, max_length=140, replica="b")
    assert_guessed(targets.settle(other), imagine(decoder, other))
    assert network.copies == []


def test_two_targets_that_send_one_prompt_at_once_compute_it_once(decoder: Any) -> None:
    """The second one waits for its prefill, and by then the first one's blocks are there."""
    engine, network = make_engine(decoder)
    targets = Targets(engine)
    mine = story("x", length=150, plan=DEEP, max_length=170)
    theirs = replace(mine, replica="b", seed=2)
    assert {reply.status for reply in targets.ask(mine, theirs)} == {RowStatus.WARMING}
    assert network.copies == [128]
    assert sum(sum(rows) for group, rows in network.runs if group == 0) == 149 + 149 - 128
    for one in (mine, theirs):
        assert_guessed(targets.settle(one), imagine(decoder, one))


def test_what_becomes_of_a_lender_is_nothing_to_those_who_copied(decoder: Any) -> None:
    """The lender's text is taken back and written anew, then ended and overwritten: the borrower
    guesses on as ever, and nobody gets the new text's keys for the old one's."""
    engine, network = make_engine(decoder, cache_tokens=512)
    targets = Targets(engine)
    lender = story("x", length=150, plan=DEEP, max_length=170)
    targets.settle(lender)
    borrower = Story("y", [*lender.ids[:130], 5], DEEP, max_length=170, replica="b")
    targets.settle(borrower)
    assert network.copies == [128]
    lender.ids, lender.base = [*lender.ids[:20], *range(60), *range(60)], 20
    targets.settle(lender)
    third = replace(borrower, name="z", base=0, ids=[*borrower.ids, 6], replica="c")
    for one in (borrower, third, borrower, lender):
        assert_guessed(targets.settle(one), imagine(decoder, one))
    targets.send(story("w", 140, max_length=192), closed=("x",))
    run(engine)
    borrower.ids.append(7)
    for one in (borrower, third):
        assert_guessed(targets.settle(one), imagine(decoder, one))


# Warming and debt --------------------------------------------------------------------------------


def test_a_long_prompt_warms_in_chunks(decoder: Any) -> None:
    """No forward is larger than a chunk, and afterwards the row joins with the right guess."""
    engine, network = make_engine(decoder, prefill_chunk=32)
    targets = Targets(engine)
    long = story("x", 150, plan=DEEP, max_length=192)
    (reply,) = targets.ask(long)
    assert reply.status is RowStatus.WARMING
    for group in range(3):
        assert [rows for number, rows in network.runs if number == group] == [[32]] * 4 + [[21]]
    long.base = len(long.ids)
    assert_guessed(targets.ask(long)[0], imagine(decoder, long))
    assert engine.counters["warm_steps"] == 5


def test_a_warming_prompt_holds_up_no_row(decoder: Any) -> None:
    """A short row is answered after its own four steps and one chunk in between, while most of
    the long prompt is still to come."""
    engine, _ = make_engine(decoder, prefill_chunk=32)
    short = story("y", plan=DEEP, replica="b")
    Targets(engine).send(story("x", 150, max_length=192), short)
    replies: dict[str, ProposeReply] = {}
    while "b" not in replies:
        engine.step(0.0)
        replies |= dict(engine.finished())
    assert replies["a"].rows[0].status is RowStatus.WARMING
    assert_guessed(replies["b"].rows[0], imagine(decoder, short))
    assert (engine.counters["steps"], engine.counters["warm_steps"]) == (4, 1)
    assert engine.has_work


def test_an_evicted_session_stops_warming(decoder: Any) -> None:
    """What was queued for it is forgotten with it."""
    engine, _ = make_engine(decoder, cache_tokens=192, prefill_chunk=16)
    targets = Targets(engine)
    targets.send(story("x", 150, max_length=192))
    targets.send(story("y", plan=DEEP, max_length=192))
    assert [row.status for row in run(engine)["a"].rows] == [RowStatus.OK]
    assert engine.counters["warm_steps"] == 0


def test_a_row_whose_deep_groups_lag_too_far_stops_at_its_shallow_exit(decoder: Any) -> None:
    """Catching up is then done in chunks beside the batch, and later rounds go deep again with
    the guesses they would always have had."""
    engine, _ = make_engine(decoder, max_debt=14, prefill_chunk=32)
    targets = Targets(engine)
    one = story("x", plan=DEEP)
    targets.settle(one)
    one.plan = SHALLOW
    for _ in range(3):
        one.ids += [*targets.settle(one).tokens, 5]
    one.plan = replace(DEEP, max_proposal=1)
    (reply,) = targets.ask(one)
    assert reply.drafted_by == (2,)
    assert_guessed(reply, imagine(decoder, replace(one, plan=replace(SHALLOW, max_proposal=1))))
    assert engine.counters["rows_stopped_by_debt"] == 1
    assert engine.counters["warm_steps"] == 1
    one.ids += [*reply.tokens, 5]
    one.base = len(one.ids) - 1
    assert_guessed(targets.ask(one)[0], imagine(decoder, one))
    assert engine.counters["rows_stopped_by_debt"] == 1


def test_a_row_that_is_held_back_is_caught_up_once_it_is_answered(decoder: Any) -> None:
    """Not between its steps: then its depth would depend on when prefill steps come."""
    engine, _ = make_engine(decoder, max_debt=10, prefill_chunk=32)
    targets = Targets(engine)
    one = story("x", plan=replace(DEEP, max_proposal=8))
    targets.send(one)
    for _ in range(8):
        engine.step(0.0)
    assert engine.counters["warm_steps"] == 0
    ((_, reply),) = engine.finished()
    assert reply.rows[0].drafted_by == (2,) * 8
    run(engine)
    assert engine.counters["warm_steps"] == 1
