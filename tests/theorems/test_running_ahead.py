"""Run-ahead (design D7): it changes no reply, and on a device of its own it shortens rounds.

Time is virtual: draft and target are two devices of a small event loop, and nobody sleeps.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.protocol import (
    EMPTY_DIGEST,
    ProposeCall,
    ProposeReply,
    ProposeRow,
    RowStatus,
    extend_digest,
)
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Copy, KVPool
from tests.drafting import (
    LONG_BUDGET_MS,
    Story,
    Targets,
    change_manner,
    grow,
    hear,
    packed_engine,
    random_text,
    run,
)

# No reply changes -------------------------------------------------------------------------------


class Twins:
    """Two engines that get the same calls; one runs ahead for a while between them."""

    def __init__(self, seed: int, max_debt: int) -> None:
        self.rng = random.Random(seed)
        shared = {"prefill_chunk": 32, "max_debt": max_debt, "idle_s": 3.0}
        self.plain, _ = packed_engine("llama", 640, 0, **shared)
        self.ahead, _ = packed_engine("llama", 640, 1, **shared, run_ahead=True)
        self.calls = [Targets(self.plain), Targets(self.ahead)]
        self.num_texts = 0
        self.texts = [self.new_text(name) for name in "aaabbb"]
        self.now_s = 0.0

    def new_text(self, replica: str) -> Story:
        self.num_texts += 1
        return random_text(self.rng, f"s{self.num_texts}", replica=replica)

    def round(self) -> list[RowStatus]:
        """A call of one or two targets, answered to the end."""
        closed = self.replace_ended()
        asking = self.rng.sample(self.texts, self.rng.randint(1, 4))
        self.now_s += self.rng.choice([0.0, 0.0, 0.5, 2.0])
        for targets in self.calls:
            targets.engine.expire(self.now_s)
            targets.send(*asking, now_s=self.now_s, closed=closed)
        plain, ahead = (run(targets.engine, self.now_s) for targets in self.calls)
        assert ahead == plain
        for _ in range(self.rng.randint(0, 9)):
            self.ahead.step(self.now_s)
        return [self.take(one, plain) for one in asking]

    def replace_ended(self) -> tuple[str, ...]:
        ended = [one for one in self.texts if len(one.ids) > one.max_length - 8]
        for one in ended:
            self.texts[self.texts.index(one)] = self.new_text(one.replica)
        return tuple(one.name for one in ended)

    def take(self, one: Story, replies: dict[str, ProposeReply]) -> RowStatus:
        rows = replies[one.replica].rows
        (row,) = (row for row in rows if row.draft_session == one.name)
        if hear(one, row):
            grow(self.rng, "llama", one, row)
        if self.rng.random() < 0.1:
            change_manner(self.rng, one)
        return row.status


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this host has no oneDNN")
@pytest.mark.parametrize("max_debt", [4, 1_000])
def test_run_ahead_changes_no_reply(max_debt: int) -> None:
    """The same calls, answered to the end, with any number of run-ahead steps after them: every
    reply is equal as a whole (tokens, parents, ranks, exits, confidences, statuses), and so are the
    engines' sessions, evictions, shared prefixes and rows stopped by debt."""
    twins = Twins(1, max_debt)
    statuses = [status for _ in range(140) for status in twins.round()]
    plain, ahead = twins.plain.counters, twins.ahead.counters
    differ = {"steps", "step_rows", "steps_of_several_replicas", "caught_up_positions"}
    assert {key: count for key, count in plain.items() if key not in differ} == {
        key: count
        for key, count in ahead.items()
        if key not in differ and not key.startswith("run_ahead")
    }
    assert twins.plain.num_held_blocks == twins.ahead.num_held_blocks
    assert set(statuses) >= {RowStatus.OK, RowStatus.NEEDS, RowStatus.WARMING}
    assert plain["evicted_sessions"] > 3
    assert plain["expired_sessions"] > 1
    assert plain["prefix_tokens"] > 200
    assert (plain["rows_stopped_by_debt"] > 3) == (max_debt == 4)
    assert ahead["run_ahead_hits"] > 20
    assert ahead["run_ahead_wasted"] > 20
    assert ahead["steps"] < plain["steps"]


# Virtual time -----------------------------------------------------------------------------------

VOCAB_SIZE = 50
FIRST_IDS = [7, 7, 7]
NUM_TOKENS = 40
MAX_LENGTH = 64


def true_token(slot: int, position: int) -> int:
    """The text of the target whose draft session lies at `slot`; no end token is in it."""
    return 1 + (slot + position * position) % (VOCAB_SIZE - 2)


class ScriptedNetwork:
    """One sub-model that knows the texts, but for some positions."""

    exit_layers = (1,)

    def __init__(self, wrong: frozenset[int]) -> None:
        self.head_ids = torch.arange(VOCAB_SIZE)
        no_devices: list[torch.device] = []
        self.pool = KVPool(no_devices, 1, 1, 2 * MAX_LENGTH, torch.float32)
        self._wrong = wrong

    def run_group(
        self, group: int, token_ids: Sequence[int], segments: Sequence[Segment]
    ) -> Tensor:
        """-> (slot, position behind) of each segment [segments, 2]."""
        return torch.tensor(
            [[each.run.start, each.first_position + each.num_rows] for each in segments]
        )

    def exit_logits(self, submodel: int, hidden: Tensor) -> Tensor:
        logits = torch.zeros(len(hidden), VOCAB_SIZE)
        for row, (slot, position) in enumerate(hidden.tolist()):
            logits[row, true_token(slot, position) + (position in self._wrong)] = 20.0
        return logits

    def copy(self, copy: Copy) -> None:
        raise AssertionError("these texts are too short to be copied from")


@dataclass
class Round:
    """When a target asked, when the draft took the call in and answered, and its guesses."""

    asked: int
    joined: int = -1
    answered: int = -1
    tokens: tuple[int, ...] = ()

    @property
    def wait(self) -> int:
        return self.answered - self.asked


@dataclass
class VirtualTarget:
    """Asks, waits, verifies for `forward` units of time, commits, asks again."""

    slot: int
    forward: int
    ids: list[int] = field(default_factory=FIRST_IDS.copy)
    rounds: list[Round] = field(default_factory=list)

    def ask(self, plan: Plan, now: int) -> ProposeCall:
        self.rounds.append(Round(now))
        digest = extend_digest(EMPTY_DIGEST, self.ids)
        row = ProposeRow("x", 0, tuple(self.ids), digest, MAX_LENGTH, plan, 1, 0.0)
        return ProposeCall(str(self.slot), len(self.rounds), LONG_BUDGET_MS, (row,))

    def commit(self) -> None:
        """Keep the right guesses and one token of its own."""
        for guess in (*self.rounds[-1].tokens, None):
            self.ids.append(true_token(self.slot, len(self.ids)))
            if guess != self.ids[-1]:
                return


class Hall:
    """Targets and their draft, each on a device of its own, until the texts are written."""

    def __init__(
        self,
        plan: Plan,
        draft_step: int,
        forwards: Sequence[int],
        wrong: frozenset[int],
        ahead: bool,
    ) -> None:
        self.engine = DraftEngine(ScriptedNetwork(wrong), (0,), run_ahead=ahead)
        self.plan = plan
        self.draft_step = draft_step
        self.targets = {
            str(MAX_LENGTH * place): VirtualTarget(MAX_LENGTH * place, forward)
            for place, forward in enumerate(forwards)
        }
        self.inbox: list[tuple[VirtualTarget, ProposeCall]] = []
        self.is_stepping = False
        self.order = itertools.count()
        self.events: list[tuple[int, int, VirtualTarget | None]] = []

    def serve(self) -> list[VirtualTarget]:
        """The event loop. An event is the end of a target's forward, or of the draft's step."""
        for target in self.targets.values():
            self.ask(target, 0)
        while self.events:
            now, _, target = heapq.heappop(self.events)
            if target is None:
                self.is_stepping = False
            else:
                target.commit()
                if len(target.ids) < NUM_TOKENS:
                    self.ask(target, now)
            if not self.is_stepping:
                self.draft(now)
        return list(self.targets.values())

    def ask(self, target: VirtualTarget, now: int) -> None:
        self.inbox.append((target, target.ask(self.plan, now)))
        if not self.is_stepping:
            self.draft(now)

    def draft(self, now: int) -> None:
        """What the draft's loop does between two steps."""
        self.answer(now)
        for target, call in self.inbox:
            self.engine.receive(call, now)
            target.rounds[-1].joined = now
        self.inbox.clear()
        self.answer(now)
        if not self.engine.is_idle:
            runs_ahead = not self.engine.has_work
            before = self.engine.counters["run_ahead_steps"]
            self.engine.step(now)
            assert self.engine.counters["run_ahead_steps"] - before == runs_ahead
            self.is_stepping = True
            self.at(now + self.draft_step, None)

    def answer(self, now: int) -> None:
        for name, reply in self.engine.finished():
            target = self.targets[name]
            target.rounds[-1].answered = now
            target.rounds[-1].tokens = reply.rows[0].tokens
            self.at(now + target.forward, target)

    def at(self, time: int, target: VirtualTarget | None) -> None:
        heapq.heappush(self.events, (time, next(self.order), target))


def chains_of(length: int) -> Plan:
    return Plan(max_proposal=length)


wrong_positions = st.frozensets(st.integers(len(FIRST_IDS), NUM_TOKENS + 8), max_size=30)


@settings(deadline=None)
@given(
    length=st.integers(1, 6),
    draft_step=st.integers(1, 9),
    forward=st.integers(1, 60),
    wrong=wrong_positions,
)
def test_a_call_waits_at_most_one_draft_step_longer(
    length: int, draft_step: int, forward: int, wrong: frozenset[int]
) -> None:
    """Round by round the same guesses; whichever of them are right, run-ahead delays a call by no
    more than the step it is in."""
    (plain,), (ahead,) = (
        Hall(chains_of(length), draft_step, [forward], wrong, runs_ahead).serve()
        for runs_ahead in (False, True)
    )
    assert ahead.ids == plain.ids
    assert [one.tokens for one in ahead.rounds] == [one.tokens for one in plain.rounds]
    for ours, theirs in zip(ahead.rounds, plain.rounds, strict=True):
        assert ours.joined - ours.asked <= draft_step
        assert ours.wait <= theirs.wait + draft_step


@pytest.mark.parametrize("length", [1, 2, 4])
def test_where_guesses_are_accepted_no_round_waits_for_the_draft(length: int) -> None:
    """The target's forward is as long as the draft needs for the next proposal and the token before
    it. Right guesses: only the first round waits. Wrong ones everywhere: nothing is gained."""
    draft_step, forward = 3, 3 * (length + 1)
    everywhere = frozenset(range(NUM_TOKENS + 8))
    for wrong, gains in ((frozenset[int](), True), (everywhere, False)):
        (plain,), (ahead,) = (
            Hall(chains_of(length), draft_step, [forward], wrong, runs_ahead).serve()
            for runs_ahead in (False, True)
        )
        assert {one.wait for one in plain.rounds} == {length * draft_step}
        assert ahead.rounds[0].wait == length * draft_step
        assert {one.wait for one in ahead.rounds[1:]} == {0 if gains else length * draft_step}


def test_a_guess_that_is_refused_costs_no_more_than_the_rounds_behind_it() -> None:
    """One wrong position: its own round and no other one waits for the draft again."""
    position = 20
    (ahead,) = Hall(chains_of(3), 2, [8], frozenset([position]), True).serve()
    waits = [one.wait for one in ahead.rounds[1:]]
    assert 0 < sum(wait > 0 for wait in waits) <= 2 < len(waits)


@settings(deadline=None)
@given(
    draft_step=st.integers(1, 9),
    forwards=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    wrong=wrong_positions,
)
def test_one_targets_run_ahead_delays_another_one_by_at_most_a_step(
    draft_step: int, forwards: tuple[int, int], wrong: frozenset[int]
) -> None:
    """Two targets on three devices: every call joins at the end of the step that runs when it comes
    in, and no step runs ahead while a call waits."""
    hall = Hall(chains_of(3), draft_step, forwards, wrong, True)
    for target in hall.serve():
        slot = target.slot
        assert target.ids[3:] == [true_token(slot, place) for place in range(3, len(target.ids))]
        assert len(target.ids) >= NUM_TOKENS
        assert all(one.joined - one.asked <= draft_step for one in target.rounds)
