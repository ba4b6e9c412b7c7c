"""Run-ahead (design D7): what the draft may do in idle time, and when it is of use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.protocol import ProposeCall, RowStatus
from s2d_ray.models.kv_pool import BLOCK
from tests.drafting import DEEP, LONG_BUDGET_MS, SHALLOW, Recorded, Story, Targets, run, story
from tests.tiny import tiny_decoder, tiny_draft_network

EXITS = (1, 2, 3)
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def decoder() -> Any:
    return tiny_decoder(layers=3)


def make_engine(
    decoder: Any, cache_tokens: int = 1024, eos: Sequence[int] = (), **settings: Any
) -> tuple[DraftEngine, Recorded]:
    network = Recorded(tiny_draft_network(decoder, EXITS, cache_tokens=cache_tokens))
    return DraftEngine(network, eos, **{"run_ahead": True, **settings}), network


def idle(engine: DraftEngine) -> int:
    """Let the draft run ahead until it has nothing left to guess. -> its steps."""
    before = engine.counters["run_ahead_steps"]
    while not engine.is_idle:
        engine.step(0.0)
    return engine.counters["run_ahead_steps"] - before


def told(decoder: Any, one: Story, length: int) -> list[int]:
    """What the draft guesses behind a text, so far."""
    engine, _ = make_engine(decoder, run_ahead=False)
    plan = replace(one.plan, max_proposal=length, stop_threshold=0.0)
    return list(Targets(engine).settle(replace(one, base=0, plan=plan)).tokens)


def test_it_is_off_unless_asked_for(decoder: Any) -> None:
    """By default an answered engine has nothing to do."""
    network = tiny_draft_network(decoder, EXITS)
    engine = DraftEngine(network, ())
    Targets(engine).settle(story("x"))
    assert engine.is_idle
    engine.step(0.0)
    assert engine.counters["run_ahead_steps"] == 0


def test_a_proposal_that_was_guessed_ahead_takes_no_step(decoder: Any) -> None:
    """Everything accepted, and the target's own token as guessed: the reply is there at once."""
    engine, network = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=DEEP)
    truth = told(decoder, one, 9)
    assert list(targets.settle(one).tokens) == truth[:4]
    assert idle(engine) == 5
    one.ids += truth[:5]
    network.runs.clear()
    assert list(targets.settle(one).tokens) == truth[5:9]
    assert network.runs == []
    assert engine.counters["run_ahead_hits"] == 4
    assert engine.counters["run_ahead_wasted"] == 1, "the guess of the target's own token"


@pytest.mark.parametrize(("num_ahead", "num_saved"), [(0, 0), (1, 0), (2, 1), (4, 3), (5, 4)])
def test_a_call_takes_what_there_is_and_drafts_the_rest(
    decoder: Any, num_ahead: int, num_saved: int
) -> None:
    """A call may come in after any step; each token guessed ahead saves one, and what was computed
    for it is not computed again."""
    engine, network = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=DEEP)
    truth = told(decoder, one, 9)
    targets.settle(one)
    for _ in range(num_ahead):
        engine.step(0.0)
    one.ids += truth[:5]
    network.runs.clear()
    before = engine.counters["steps"]
    assert list(targets.settle(one).tokens) == truth[5:9]
    assert engine.counters["steps"] - before == 4 - num_saved
    if 0 < num_saved < 4:
        assert network.runs == [(group, [1]) for group in range(3)] * (4 - num_saved)


@pytest.mark.parametrize(
    "change",
    [
        {"plan": replace(DEEP, exit_thresholds=(1.1, 0.0))},
        {"plan": replace(DEEP, max_proposal=3)},
        {"seed": 2},
        {"temperature": 0.5},
        {"logit_bias": ((5, 1.0),)},
        {"banned": (5,)},
        {"salt": "another"},
    ],
)
def test_another_manner_of_guessing_takes_nothing_over(
    decoder: Any, change: dict[str, Any]
) -> None:
    """Guesses depend on plan, seed, temperature and hints; they are made anew, and are right."""
    engine, _ = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=DEEP)
    truth = told(decoder, one, 5)
    targets.settle(one)
    idle(engine)
    one.ids += truth
    changed = replace(one, **change)
    guessed = list(targets.settle(changed).tokens)
    assert guessed == told(decoder, changed, changed.plan.max_proposal)
    assert engine.counters["run_ahead_hits"] == 0
    assert engine.counters["run_ahead_wasted"] == 5


@pytest.mark.parametrize("num_accepted", [0, 2, 4])
def test_another_token_of_the_targets_own_takes_nothing_over(
    decoder: Any, num_accepted: int
) -> None:
    """Only what was guessed behind the very ids that are committed is of use."""
    engine, _ = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=DEEP)
    truth = told(decoder, one, 5)
    targets.settle(one)
    idle(engine)
    one.ids += [*truth[:num_accepted], truth[num_accepted] + 1]
    assert list(targets.settle(one).tokens) == told(decoder, one, 4)
    assert engine.counters["run_ahead_hits"] == 0


def test_it_ends_where_the_text_or_the_next_proposal_would(decoder: Any) -> None:
    """At the text's cap, behind an end token, without a proposal to make, and where the next row
    would stop for want of confidence."""
    engine, _ = make_engine(decoder)
    targets = Targets(engine)
    one = story("x", plan=DEEP, max_length=18)
    assert len(targets.settle(one).tokens) == 4
    assert idle(engine) == 2
    truth = told(decoder, story("y", plan=DEEP), 9)
    assert truth[6] not in truth[:6]
    engine, _ = make_engine(decoder, eos=(truth[6],))
    Targets(engine).settle(story("y", plan=DEEP))
    assert idle(engine) == 3
    engine, _ = make_engine(decoder)
    Targets(engine).settle(story("y", plan=Plan(max_proposal=0)))
    assert idle(engine) == 0
    Targets(engine).settle(story("z", plan=replace(DEEP, stop_threshold=1.0), replica="b"))
    assert idle(engine) == 2, "the target's own token, and the first that the stop rule sees"


def test_a_group_that_lags_too_far_ends_it(decoder: Any) -> None:
    """Shallow guesses until one ahead should go deeper and may not: it is not kept, and nothing is
    warmed for it. The row that comes is held back itself."""
    longer = replace(SHALLOW, max_proposal=9)
    searched = Targets(make_engine(decoder, run_ahead=False)[0])
    for seed in range(100):
        one = story("x", seed=seed, plan=longer)
        guessed = searched.settle(replace(one, name=f"seed {seed}"))
        sure, ahead = guessed.confidences[:6], guessed.confidences[6:]
        if len(ahead) == 3 and ahead[0] < min(sure):
            break
    one.plan = Plan(((ahead[0] + min(sure)) / 2, 0.0), max_proposal=4)
    engine, _ = make_engine(decoder, max_debt=3)
    targets = Targets(engine)
    assert targets.settle(one).tokens == guessed.tokens[:4]
    assert idle(engine) == 3, "the target's own token, one more, and the one that is not kept"
    assert (engine.counters["warm_steps"], engine.counters["rows_stopped_by_debt"]) == (0, 0)
    one.ids += guessed.tokens[:5]
    assert targets.settle(one).tokens[:2] == guessed.tokens[5:7]
    assert engine.counters["run_ahead_hits"] == 1
    assert engine.counters["rows_stopped_by_debt"] >= 1


def test_a_row_is_held_back_as_without_run_ahead(decoder: Any) -> None:
    """The fork caught up on the last position where it still might. The row that comes is one
    position later and may not, so it gets the shallow guess that it would always have got."""
    plan = Plan((0.5, 0.0), max_proposal=6)
    searched = Targets(make_engine(decoder, run_ahead=False)[0])
    for seed in range(300):
        one = story("x", seed=seed, plan=plan)
        guessed = searched.settle(replace(one, name=f"seed {seed}"))
        if guessed.drafted_by == (1, 1, 1, 1, 2, 2):
            break
    one.plan = replace(plan, max_proposal=4)
    replies = []
    for run_ahead in (False, True):
        text = replace(one, ids=one.ids.copy())
        max_debt = len(text.ids) + 4
        engine, _ = make_engine(decoder, run_ahead=run_ahead, max_debt=max_debt)
        targets = Targets(engine)
        targets.settle(text)
        assert idle(engine) == 5 * run_ahead
        text.ids += guessed.tokens[:5]
        replies.append(targets.settle(text))
        assert engine.counters["rows_stopped_by_debt"] > 0
    assert replies[1] == replies[0]
    assert replies[0].drafted_by[0] == 1


def test_no_step_runs_ahead_while_a_call_is_unanswered(decoder: Any) -> None:
    """Neither beside rows and prefill, nor while a finished reply lies there to be given out."""
    engine, _ = make_engine(decoder, prefill_chunk=32)
    targets = Targets(engine)
    targets.settle(story("x", plan=DEEP))
    targets.send(story("y", 150, max_length=192, replica="b"), story("x", plan=DEEP))
    for _ in range(20):
        engine.step(0.0)
    assert engine.has_work
    assert engine.counters["run_ahead_steps"] == 0
    engine.finished()
    assert idle(engine) > 0


def test_a_session_that_is_gone_is_not_run_ahead_of(decoder: Any) -> None:
    """Its run is another's now: nothing is written there, and what was guessed is counted."""
    engine, network = make_engine(decoder, cache_tokens=BLOCK)
    targets = Targets(engine)
    targets.settle(story("x", plan=DEEP))
    engine.step(0.0)
    engine.step(0.0)
    other = story("y", plan=DEEP, replica="b")
    targets.settle(other)
    assert engine.num_sessions == 1
    truth = told(decoder, other, 9)
    idle(engine)
    other.ids += truth[:5]
    assert list(targets.settle(other).tokens) == truth[5:9]
    assert engine.counters["run_ahead_wasted"] == 2 + 1
    engine.receive(ProposeCall("b", 99, LONG_BUDGET_MS, (), closed=("y",)), 0.0)
    run(engine)
    assert engine.is_idle
    assert network.pool.allocator.num_free_blocks == 1


def test_a_session_opened_anew_takes_nothing_of_the_lost_one(decoder: Any) -> None:
    """What was guessed ahead was computed in the lost session's run, so the new one, of the same
    name and text, drafts for itself, now and in the round after."""
    engine, _ = make_engine(decoder, cache_tokens=BLOCK)
    targets = Targets(engine)
    one = story("x", plan=DEEP)
    truth = told(decoder, one, 14)
    targets.settle(one)
    idle(engine)
    targets.settle(story("y", plan=DEEP, replica="b"))
    one.ids, one.base = [*one.ids, *truth[:5]], 0
    assert list(targets.settle(one).tokens) == truth[5:9]
    assert engine.counters["run_ahead_hits"] == 0
    one.ids += truth[5:10]
    assert list(targets.settle(one).tokens) == truth[10:14]


def test_after_a_prefill_it_guesses_behind_the_prompt(decoder: Any) -> None:
    """A warming row's target decodes plainly meanwhile; if its token is the guess, its next call is
    answered at once."""
    engine, _ = make_engine(decoder, prefill_chunk=32)
    targets = Targets(engine)
    one = story("x", 100, plan=DEEP, max_length=128)
    truth = told(decoder, one, 5)
    assert targets.ask(one)[0].status is RowStatus.WARMING
    one.base = len(one.ids)
    idle(engine)
    one.ids += truth[:1]
    assert list(targets.ask(one)[0].tokens) == truth[1:5]
    assert engine.counters["steps"] == 0


def test_the_loop_runs_ahead_when_nobody_waits(decoder: Any) -> None:
    """The thread goes on by itself after an answer, and a call finds what it has guessed."""
    engine, _ = make_engine(decoder)
    loop = DraftLoop(engine, num_threads=1)
    loop.start()
    try:
        one = story("x", plan=DEEP)
        truth = told(decoder, one, 9)
        row = one.row()
        first = loop.submit(ProposeCall("a", 1, LONG_BUDGET_MS, (row,))).result(PATIENCE_S)
        assert list(first.rows[0].tokens) == truth[:4]
        deadline_s = time.monotonic() + PATIENCE_S
        while loop.counters().get("run_ahead_steps", 0) < 5:
            assert time.monotonic() < deadline_s, "the loop does not run ahead"
            time.sleep(0.01)
        one.ids += truth[:5]
        second = loop.submit(ProposeCall("a", 2, LONG_BUDGET_MS, (one.row(),))).result(PATIENCE_S)
        assert list(second.rows[0].tokens) == truth[5:9]
        assert loop.counters()["steps"] == 4
    finally:
        loop.stop()
