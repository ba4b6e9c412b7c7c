"""Who runs, who waits and who gives way: every text ends, and finds in its run what it computed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine import schedule
from s2d_ray.engine.drawing import Drawn
from s2d_ray.engine.messages import Delta, Event, Finished, GenerateRequest, Mode, TextPrompt
from s2d_ray.engine.protocol import ProposeReply
from s2d_ray.engine.sequence import Piece, Sequence
from s2d_ray.engine.step import Step
from s2d_ray.engine.target_batch import Limits, TargetBatch
from s2d_ray.models.kv_pool import BLOCK, Run, RunAllocator
from s2d_ray.models.text import Piece as Shown
from tests.scripted import ok

VOCAB = 90
MAX_CONTEXT = 5 * BLOCK


def behind(token: int) -> int:
    """What the target draws behind a token; never the end, 0."""
    return 1 + token % (VOCAB - 1)


class Letters:
    """A sink that shows every id as a character."""

    def push(self, token_id: int) -> Piece:
        return Shown(chr(32 + token_id))

    def finish(self) -> str:
        return ""

    def token_bytes(self, token_id: int) -> bytes:
        return b""


class House:
    """A target over a pool whose slots hold ids in the place of keys and values."""

    def __init__(self, num_blocks: int, *, prefix_cache: bool = False, max_batch: int = 6) -> None:
        self.allocator = RunAllocator(num_blocks * BLOCK)
        self.slots = [-1] * (num_blocks * BLOCK)
        limits = Limits(MAX_CONTEXT, 32, max_batch, 1_000, 48, VOCAB, prefix_cache)
        self.engine = TargetBatch(
            limits, self.allocator, frozenset({0}), lambda params: Letters(), "replica"
        )
        self.told: dict[str, list[Event]] = {}
        self.expected: dict[str, str] = {}

    @property
    def running(self) -> list[Sequence]:
        return self.engine._schedule.running

    @property
    def names(self) -> list[str]:
        """Of all sequences, those that run before those that wait."""
        return [sequence.request.request_id for sequence in self.engine._schedule]

    def add(self, prompt: list[int], max_tokens: int, mode: Mode = Mode.OFF) -> None:
        name = f"{self.engine.counters['requests']:03}"
        sampling = SamplingParams(1, 0.0, max_tokens=max_tokens)
        plan = Plan((), 0.0, 6, min_match=0)
        self.engine.add(GenerateRequest(name, TextPrompt(""), sampling, plan, mode), prompt)
        self.told[name] = []
        tokens = [prompt[-1]]
        for _ in range(min(max_tokens, MAX_CONTEXT - len(prompt))):
            tokens.append(behind(tokens[-1]))
        self.expected[name] = "".join(chr(32 + token) for token in tokens[1:])

    def step(self, rng: random.Random | None = None) -> Step:
        """One round; with a generator, proposals are right up to some place."""
        call = self.engine.ask(draft_available=rng is not None)
        if call is not None and rng is not None:
            rows = []
            for row in call.rows:
                guesses = [behind(row.token_ids[-1] if row.token_ids else 1)]
                while len(guesses) < rng.randrange(1, 7):
                    guesses.append(behind(guesses[-1]) if rng.random() < 0.8 else 3)
                rows.append(ok(row, guesses))
            self.engine.take_reply(ProposeReply(call.call_no, tuple(rows)))
        step = self.engine.plan()
        assert step is not None
        self._forward(step)
        drawn = [Drawn(behind(step.token_ids[row])) for row in step.wanted_rows]
        for name, event in self.engine.commit(step, drawn):
            self.told[name].append(event)
        return step

    def _forward(self, step: Step) -> None:
        for copy in step.copies:
            moved = self.slots[copy.source : copy.source + copy.num_tokens]
            self.slots[copy.target : copy.target + copy.num_tokens] = moved
        row = 0
        for segment in step.segments:
            first, count = segment.first_position, segment.num_rows
            assert first + count <= segment.run.num_slots, "rows beyond the run"
            slot = segment.run.start + first
            self.slots[slot : slot + count] = step.token_ids[row : row + count]
            row += count

    def check(self) -> None:
        """Runs are disjoint, hold what was computed, and stand in order of arrival."""
        used: list[int] = []
        for sequence in self.running:
            run = sequence.run
            assert isinstance(run, Run)
            used += range(run.start, run.start + run.num_slots)
            held = self.slots[run.start : run.start + sequence.num_computed]
            assert held == sequence.ids[: sequence.num_computed]
        assert len(used) == len(set(used))
        num_free = self.allocator.num_free_blocks + self.engine.num_held_blocks
        assert len(used) // BLOCK + num_free == self.allocator.num_blocks
        assert self.names == sorted(self.names)

    def finish(self) -> None:
        """Run to the end. A step that helps nobody, or a text that is never told, fails."""
        while self.engine.queue_depth:
            self.step()
            self.check()
        for name, events in self.told.items():
            assert isinstance(events[-1], Finished)
            assert "".join(e.text for e in events if isinstance(e, Delta)) == self.expected[name]


@pytest.fixture
def no_room_ahead() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "AHEAD", 0)
        yield


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_blocks=st.integers(5, 12),
    ahead=st.sampled_from([0, 0, BLOCK, 2 * BLOCK]),
    prefix_cache=st.booleans(),
)
def test_the_oldest_text_gains_in_every_step_so_all_texts_end_and_are_right(
    seed: int, num_blocks: int, ahead: int, prefix_cache: bool
) -> None:
    """Texts come, grow, guess, leave and give way in any order; slots hold what they must."""
    rng = random.Random(seed)
    house = House(num_blocks, prefix_cache=prefix_cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "AHEAD", ahead)
        for _ in range(120):
            if rng.random() < 0.3:
                start = rng.choice([1, 2])
                prompt = [1 + (start + i) % 80 for i in range(rng.randrange(1, 200))]
                prompt += [rng.randrange(1, VOCAB) for _ in range(rng.randrange(9))]
                house.add(prompt, rng.randrange(1, 150), rng.choice([Mode.FORCE, Mode.OFF]))
            if not house.names:
                continue
            if rng.random() < 0.05:
                house.engine.abort(gone := rng.choice(house.names))
                del house.told[gone]
                continue
            oldest = next(iter(house.engine._schedule))
            before = (len(oldest.ids), oldest.num_computed)
            num_preemptions = oldest.num_preemptions
            house.step(rng if rng.random() < 0.7 else None)
            house.check()
            assert oldest.num_preemptions == num_preemptions
            assert (len(oldest.ids), oldest.num_computed) > before
        house.finish()


@pytest.mark.usefixtures("no_room_ahead")
def test_the_youngest_gives_way_waits_in_front_and_goes_on() -> None:
    house = House(3)
    for _ in range(3):
        house.add([5] * 62, max_tokens=120)
    while not house.engine.counters["preemptions"]:
        house.step()
    assert [sequence.request.request_id for sequence in house.running] == ["000"]
    assert house.names == ["000", "001", "002"]
    house.finish()


@pytest.mark.usefixtures("no_room_ahead")
def test_a_preempted_text_is_counted_and_told_as_if_nothing_had_been() -> None:
    """Its prompt, its rounds and the tokens of its first copy alone."""
    house = House(3)
    house.add([5] * 62, max_tokens=100)
    house.add([7] * 62, max_tokens=100)
    house.finish()
    counters = house.engine.counters
    assert counters["preemptions"] == 1
    assert counters["recomputed_tokens"] > 0
    for events in house.told.values():
        assert isinstance(events[-1], Finished)
        usage = events[-1].usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.rounds) == (62, 100, 99)
        assert usage.cached_tokens == 0


def test_a_preempted_text_that_is_aborted_closes_its_draft_session() -> None:
    house = House(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "AHEAD", 0)
        house.add([5] * 62, max_tokens=250, mode=Mode.OFF)
        house.add([7] * 62, max_tokens=100, mode=Mode.FORCE)
        while not house.engine.counters["preemptions"]:
            house.step()
    house.engine.abort("001")
    assert house.engine.queue_depth == 1
    call = house.engine.ask(draft_available=True)
    assert call is not None
    assert call.closed == ("001",)


@pytest.mark.usefixtures("no_room_ahead")
def test_what_a_preempted_text_computed_is_copied_back_while_it_lies_there() -> None:
    """Then nothing is computed twice but the last block's rest, and no token counts as cached."""
    house = House(6, prefix_cache=True)
    house.add([5] * 126, max_tokens=20)
    house.add([7] * 126, max_tokens=20)
    house.add([9] * 62, max_tokens=20)
    house.finish()
    counters = house.engine.counters
    assert counters["preemptions"] > 0
    assert counters["recomputed_tokens"] < 64 * counters["preemptions"]
    for events in house.told.values():
        assert isinstance(events[-1], Finished)
        assert events[-1].usage.cached_tokens == 0


def test_the_last_text_moves_over_its_own_blocks_where_no_other_room_is_left() -> None:
    """In a pool of just its length it can end wherever it began."""
    house = House(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "AHEAD", 0)
        house.add([5] * 62, max_tokens=5)
        house.add([7] * 62, max_tokens=255)
        house.step()
        assert [sequence.run and sequence.run.start for sequence in house.running] == [0, 64]
        house.finish()
    assert house.engine.counters["relocations"] > 0
    assert house.engine.counters["preemptions"] == 0


def test_a_text_that_waits_costs_neither_held_blocks_nor_a_look_at_its_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = House(8, prefix_cache=True)
    house.add([9] * 100, max_tokens=2)
    house.finish()
    house.add([5] * 100, max_tokens=200)
    while not (house.running and house.running[0].decoding):
        house.step()
    num_held = house.engine.num_held_blocks
    assert num_held == 2
    house.add([7] * 200, max_tokens=100)
    monkeypatch.setattr("s2d_ray.engine.prefix_cache.block_keys", None)
    for _ in range(20):
        house.step()
        assert house.engine.num_held_blocks == num_held
        assert len(house.running) == 1
