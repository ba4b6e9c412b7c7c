"""Plans into rows and outcomes back, round by round, with times that are told, not taken."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.core.goodput import PLAIN, Candidate
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.control_group import WINDOW
from s2d_ray.engine.controller import TRIAL, Controller
from s2d_ray.engine.drawing import Drawn
from s2d_ray.engine.messages import Finished, GenerateRequest, Mode, TokenPrompt
from s2d_ray.engine.protocol import ProposeCall, ProposeRow, RowReply, RowStatus
from s2d_ray.engine.steering import Settings, Steering, Times
from s2d_ray.models.kv_pool import RunAllocator
from tests.arms import COSTS, best, candidates
from tests.scripted import by_row, ok
from tests.targets import make_engine
from tests.tiny import EOS, VOCAB_SIZE, tiny_tokenizer

TEXT = SimpleNamespace(tokenizer=tiny_tokenizer(), token_bytes=lambda token_id: b"?")
OWN = Plan((0.25,), 0.0, 3, min_match=0)


def after(token: int) -> int:
    """The target's next token, never an end."""
    return 2 + (token - 1) % (VOCAB_SIZE - 2)


def right(row: ProposeRow, ids: Sequence[int]) -> RowReply:
    guesses = [ids[-1]]
    for _ in range(row.plan.max_proposal):
        guesses.append(after(guesses[-1]))
    return ok(row, guesses[1:])


def busy(row: ProposeRow, ids: Sequence[int]) -> RowReply:
    return ok(row, [], status=RowStatus.BUSY)


class Stand:
    """A batch, a steering and a scripted draft. slower: its call, in seconds."""

    def __init__(self, steering: Steering, answer: Any = right, **limits: int) -> None:
        self.steering = steering
        self.script = by_row(answer)
        model = SimpleNamespace(vocab_size=VOCAB_SIZE)
        self.batch = make_engine(
            model, TEXT, eos=frozenset({EOS}), allocator=RunAllocator(65_536), **limits
        )
        self.can_ask = True
        self.calls: list[ProposeCall] = []
        self.ended: dict[str, Finished] = {}

    def add(self, *names: str, max_tokens: int = 400, **fields: Any) -> None:
        for name in names:
            request = GenerateRequest(
                name,
                TokenPrompt((5, 6, 7)),
                SamplingParams(1, 0.0, max_tokens=max_tokens),
                **{"plan": OWN, "task": "code", **fields},
            )
            self.batch.add(request, [5, 6, 7])

    def round(
        self, plain_s: float = 0.03, speculating_s: float = 0.04, prompts_s: float = 0.0
    ) -> ProposeCall | None:
        """One round, as the loop has it. -> the call that was made."""
        self.steering.begin(self.batch.running, draft_available=self.can_ask)
        call = self.batch.ask(self.can_ask)
        if call is not None:
            self.calls.append(call)
            self.batch.take_reply(self.script(call))
        step = self.batch.plan()
        assert step is not None
        drawn = [Drawn(after(step.token_ids[row])) for row in step.wanted_rows]
        for name, event in self.batch.commit(step, drawn):
            if isinstance(event, Finished):
                self.ended[name] = event
        call_s = speculating_s - plain_s if call is not None else 0.0
        forward_s = plain_s + step.has_prompts * prompts_s
        self.steering.end(step, Times(call_s, forward_s, forward_s + call_s))
        return call

    def finish(self) -> None:
        while self.batch.queue_depth:
            self.round()

    def plans(self) -> dict[str, Plan]:
        return {text.request.request_id: text.plan for text in self.batch.running}


def controller(task: str = "code") -> Controller:
    return Controller({task: candidates(task)}, COSTS, random.Random(0))


def steering(controlled: bool = True, **settings: Any) -> Steering:
    made = Steering(Settings(**settings))
    made.follow(controller() if controlled else None)
    return made


def test_without_a_plan_file_rows_follow_their_requests() -> None:
    stand = Stand(steering(controlled=False))
    stand.add("a", "b", max_tokens=8)
    stand.finish()
    assert {row.plan for call in stand.calls for row in call.rows} == {OWN}
    assert stand.ended["a"].plan == OWN
    assert stand.ended["a"].why == "of the config"


def test_rows_of_auto_follow_the_plan_of_their_class_at_their_load() -> None:
    stand = Stand(steering(frozen=True))
    stand.add("a", max_tokens=8, task="code")
    stand.finish()
    assert stand.ended["a"].plan == best("code", 1).plan
    assert "class code, fewer than 2 texts" in stand.ended["a"].why
    stand = Stand(steering(frozen=True))
    stand.add(*"bcdefgh", task="not in the file any more")
    for _ in range(2):
        stand.round()
    assert set(stand.plans().values()) == {best("code", 6).plan}


def test_a_plan_of_the_operator_stays_as_it_is() -> None:
    """Of the plan table: such a request has no class."""
    stand = Stand(steering())
    stand.add("a", task="")
    stand.finish()
    assert {row.plan for call in stand.calls for row in call.rows} == {OWN}


def test_explicit_fields_and_other_modes_are_never_touched() -> None:
    stand = Stand(steering(share=0.25))
    own = replace(OWN, max_proposal=5, exit_thresholds=(0.75,))
    stand.add("fixed", plan=own, fixed=frozenset({"max_proposal"}), max_tokens=300)
    stand.add("deep", plan=own, fixed=frozenset({"exit_thresholds"}))
    stand.add("forced", plan=own, mode=Mode.FORCE)
    stand.add("off", plan=own, mode=Mode.OFF)
    seen = set()
    stand.round()  # the prompts
    for _ in range(60):
        stand.round()
        plans = stand.plans()
        assert plans["forced"] == plans["off"] == own
        assert plans["deep"].exit_thresholds == (0.75,)
        if "fixed" in plans:
            assert plans["fixed"].max_proposal == 5
        seen.add(plans["deep"].max_proposal)
    assert 5 not in seen
    assert stand.ended["fixed"].why == "max_proposal of the request"
    stand.finish()
    assert stand.ended["deep"].why.startswith("exit_thresholds of the request; class code")


def test_a_row_that_is_off_is_no_reason_not_to_measure_the_draft() -> None:
    stand = Stand(steering(frozen=True), max_context=4_000)
    stand.add("a", max_tokens=3_000)
    stand.add("b", max_tokens=3_000, mode=Mode.OFF)
    made = stand.steering._wanted
    assert made is not None
    for _ in range(60):
        stand.round(speculating_s=0.09)
    assert made.costs.draft > 3.0


def test_a_row_that_insists_asks_in_every_round_and_there_is_no_window_beside_it() -> None:
    for fields in ({"mode": Mode.FORCE}, {"fixed": frozenset({"max_proposal"})}):
        stand = Stand(steering(controlled=False, share=0.25))
        stand.add("a", **fields)
        stand.add("b")
        for _ in range(80):
            call = stand.round()
            assert call is None or "a" in {row.draft_session for row in call.rows}
        assert stand.steering.counters["control_steps"] == 0


def test_in_a_window_of_the_control_group_nobody_asks() -> None:
    stand = Stand(steering(controlled=False, share=0.25), max_context=4_000)
    stand.add("a", "b", max_tokens=3_000)
    asked = [stand.round() is not None for _ in range(300)]
    windows = stand.steering.counters["control_steps"]
    assert windows >= 2 * WINDOW
    assert asked[1:].count(False) == windows


def test_speculation_that_does_not_pay_goes_off_and_the_reply_says_so() -> None:
    stand = Stand(steering(controlled=False, share=0.25), busy, max_context=4_000)
    stand.add("a", max_tokens=1_500)
    stand.finish()
    assert stand.steering.counters["control_switches"] == 1
    why = stand.ended["a"].why
    assert why.startswith("off with fewer than 2 texts: 0.75 times plain decoding")
    told = stand.steering.state()["benefit"]["2"]
    assert told["is_on"] is False


def test_rounds_without_the_guesses_of_their_plan_teach_nothing() -> None:
    """The draft was busy, or away, or the row paused: that says nothing of acceptance."""
    learned: list[int] = []

    class Listening(Controller):
        def learn(self, choice: Any, rounds: int, accepted: int) -> None:
            learned.append(rounds)

    made = Listening({"code": candidates("code")}, COSTS, random.Random(0))
    for answer, can_ask, expected in ((busy, True, 0), (right, False, 0), (right, True, 9)):
        learned.clear()
        steer = steering(frozen=True)
        steer.follow(made)
        stand = Stand(steer, answer)
        stand.can_ask = can_ask
        stand.add("a")
        for _ in range(10):
            stand.round()
        assert sum(learned) == expected


def test_rounds_in_which_tier_0_finds_nothing_count_for_a_plan_without_the_draft() -> None:
    """Else it would seem to be right as often as it guesses."""
    plan = Plan((), max_proposal=0, min_match=3)
    alone = Candidate(plan, 3.0, {0: 0.5, 10: 0.5}, (), 50)
    made = Controller({"code": [alone, PLAIN]}, COSTS, random.Random(0))
    told: list[tuple[int, int]] = []
    made.learn = lambda choice, rounds, accepted: told.append((rounds, accepted))  # type: ignore
    steered = Steering(Settings(share=0.0))
    steered.follow(made)
    stand = Stand(steered)
    stand.add("a", max_tokens=20)
    stand.finish()
    assert told
    assert all(accepted == 0 for _, accepted in told)
    assert not stand.calls


def test_a_draft_that_is_always_busy_is_asked_no_more_and_log_and_health_say_why() -> None:
    said: list[str] = []
    steer = Steering(report=said.append)
    steer.follow(controller())
    stand = Stand(steer, busy, max_context=4_000)
    stand.add("a", max_tokens=3_000)
    for _ in range(400):
        stand.round()
    assert stand.steering.counters["plan_changes"] == 1
    [told] = stand.steering.state()["plans"]["code"].values()
    assert "plain decoding" in told
    [line] = said
    assert line.startswith("plan of class code, fewer than 2 texts: up to 2 at -, stop 0 → plain")
    assert "served 0.15" in line


def test_a_draft_that_has_to_read_the_texts_first_is_not_overloaded() -> None:
    """Plain decoding is in force; the trial lasts until it has taught something."""
    reading = [6 * 4]

    def reads(row: ProposeRow, ids: Sequence[int]) -> RowReply:
        reading[0] -= 1
        return ok(row, [], status=RowStatus.WARMING) if reading[0] >= 0 else right(row, ids)

    made = controller("translation")
    steer = Steering()
    steer.follow(made)
    stand = Stand(steer, reads, max_context=20_000)
    stand.add("a", "b", "c", "d", max_tokens=15_000, task="translation")
    for _ in range(500):
        stand.round()
        assert made.costs.served > 0.99
    assert reading[0] <= -4 * TRIAL
    assert made._classes["translation"].acceptance.shift > 0.5


def test_frozen_nothing_changes_and_nothing_is_measured() -> None:
    stand = Stand(steering(frozen=True, share=0.25), busy, max_context=4_000)
    stand.add("a", max_tokens=3_000)
    for _ in range(400):
        stand.round()
    assert stand.plans() == {"a": best("code", 1).plan}
    assert not +stand.steering.counters
    stand.steering.take(Settings(frozen=False, share=0.25))
    for _ in range(400):
        stand.round()
    assert stand.steering.counters["plan_changes"] == 1


def test_other_plans_and_none_are_followed_from_the_next_round_on() -> None:
    stand = Stand(steering(frozen=True))
    stand.add("a")
    stand.round()
    stand.steering.follow(controller("translation"))
    stand.round()
    assert stand.plans()["a"] == best("translation", 1).plan
    stand.steering.follow(None)
    stand.round()
    assert stand.plans()["a"] == OWN


@pytest.mark.parametrize(("answer", "low", "high"), [(right, 2.9, 3.1), (busy, 0.7, 0.8)])
def test_a_step_with_prompts_is_no_measure(answer: Any, low: float, high: float) -> None:
    """Its time is that of the prompt."""
    stand = Stand(steering(controlled=False, share=0.25), answer, prefill_chunk=16)
    for number in range(200):
        stand.add(f"{number}", max_tokens=6)
        for _ in range(3):
            stand.round(prompts_s=1e9)
    comparisons = stand.steering._group.comparisons().values()
    found = [told for each in comparisons if (told := each.benefit() or each.verdict)]
    assert found
    assert all(low < told.ratio < high for told in found)
