"""The thread around a target engine: refusals, aborts, failures, and requests that come and go."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine import target_loop
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.drawing import Draw, draw_rows
from s2d_ray.engine.messages import FinishReason, Mode, Refused, Started
from s2d_ray.engine.protocol import PROTOCOL_VERSION, ProposeCall, ProposeReply
from s2d_ray.engine.target_batch import TargetBatch
from s2d_ray.engine.target_loop import TargetLoop
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Copy, RunAllocator
from tests.scripted import Scripted, by_row, ok
from tests.targets import PATIENCE_S, Client, Job, make_engine, no_draft, send, wait_for
from tests.tiny import EOS, VOCAB_SIZE, tiny_tokenizer

TEXT = SimpleNamespace(tokenizer=tiny_tokenizer(), token_bytes=lambda token_id: b"?")


class CountingModel:
    """The next token is always one more than the last. A gate can hold every forward."""

    vocab_size = VOCAB_SIZE

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.gated = False
        self.entered = threading.Semaphore(0)
        self.fails = 0
        self.num_forwards = 0

    def copy(self, copies: Sequence[Copy]) -> None:
        assert not copies, "the prefix cache is off"

    def forward(
        self, token_ids: Sequence[int], segments: Sequence[Segment], wanted_rows: Sequence[int]
    ) -> Tensor:
        self.num_forwards += 1
        self.entered.release()
        if self.gated:
            assert self.gate.acquire(timeout=PATIENCE_S)
        if self.fails:
            self.fails -= 1
            raise RuntimeError("out of memory")
        logits = torch.zeros(len(wanted_rows), VOCAB_SIZE)
        for row, wanted in enumerate(wanted_rows):
            logits[row, 2 + (token_ids[wanted] - 1) % (VOCAB_SIZE - 2)] = 10.0
        return logits


class Stage:
    """A loop over the counting model."""

    def __init__(self, proposer: Scripted | DraftClient | None = None, **limits: int) -> None:
        self.model = CountingModel()
        self.allocator = RunAllocator(1_024)
        self.engine: TargetBatch = make_engine(
            self.model, TEXT, eos=frozenset({EOS}), allocator=self.allocator, **limits
        )
        self.loop = TargetLoop(self.engine, self.model, proposer or no_draft())

    def hold(self) -> None:
        """From now on a forward waits for `step`."""
        self.model.gated = True

    def step(self) -> None:
        """Let the forward that waits go on, and wait for the next one."""
        self.model.gate.release()
        self.wait_for_forward()

    def wait_for_forward(self) -> None:
        assert self.model.entered.acquire(timeout=PATIENCE_S)

    def go(self) -> None:
        """Hold nothing any more."""
        self.model.gated = False
        self.model.gate.release()


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    """Stages to stop at the end."""
    started: list[Stage] = []
    yield started
    for stage in started:
        stage.go()
        stage.loop.stop()


def job(name: str, max_tokens: int = 5, mode: Mode = Mode.OFF, **changes: object) -> Job:
    made = Job(name, (5, 6, 7), SamplingParams(1, 0.0, max_tokens=max_tokens), Plan(), mode)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_request_gets_started_deltas_and_an_end(stages: list[Stage]) -> None:
    stages.append(stage := Stage())
    stage.loop.start()
    (client,) = send(stage.loop, [job("a")])
    wait_for([client])
    assert isinstance(client.events[0], Started)
    assert client.ids == (8, 9, 10, 11, 12)
    assert client.reason is FinishReason.LENGTH


def test_a_refusal_is_the_only_event_of_its_request(stages: list[Stage]) -> None:
    stages.append(stage := Stage(max_context=32))
    stage.loop.start()
    long, fine = send(stage.loop, [job("a", prompt_ids=(3,) * 32), job("b")])
    wait_for([long, fine])
    assert [type(event) for event in long.events] == [Refused]
    assert isinstance(long.last, Refused)
    assert (long.last.status, long.last.param) == (400, "prompt")
    assert len(fine.ids) == 5


def test_a_full_queue_refuses_with_503_and_serves_the_others(stages: list[Stage]) -> None:
    stages.append(stage := Stage(max_batch=1, max_waiting=1))
    clients = send(stage.loop, [job("a"), job("b"), job("c")])
    stage.loop.start()
    wait_for(clients)
    assert isinstance(clients[2].last, Refused)
    assert clients[2].last.status == 503
    assert clients[2].last.code == "queue_full"
    assert [len(client.ids) for client in clients[:2]] == [5, 5]


def test_an_abort_frees_the_sequence_before_the_next_forward(stages: list[Stage]) -> None:
    stages.append(stage := Stage())
    stage.hold()
    stage.loop.start()
    gone, stays = send(stage.loop, [job("gone", 50), job("stays", 50)])
    stage.wait_for_forward()
    stage.step()
    while stage.engine.queue_depth < 2:
        stage.step()
    stage.loop.abort("gone")
    told = len(gone.events)
    stage.step()
    assert stage.engine.queue_depth == 1
    assert stage.allocator.num_blocks - stage.allocator.num_free_blocks == 1
    stage.go()
    wait_for([stays])
    assert len(gone.events) <= told + 1, "only the round under way may still tell"
    assert not gone.ended.is_set()


def test_an_abort_tells_the_draft_that_the_session_is_closed(stages: list[Stage]) -> None:
    closed = threading.Semaphore(0)
    answer = by_row(lambda row, ids: ok(row, [ids[-1] + 1]))

    def script(call: ProposeCall) -> ProposeReply | None:
        for name in call.closed:
            assert name == "gone"
            closed.release()
        return answer(call)

    stages.append(stage := Stage(Scripted(script)))
    stage.hold()
    stage.loop.start()
    send(stage.loop, [job("gone", 50, Mode.AUTO)])
    stage.wait_for_forward()
    stage.step()
    stage.step()
    stage.loop.abort("gone")
    stage.go()
    assert closed.acquire(timeout=PATIENCE_S), "an idle loop must tell it too"


def test_an_idle_loop_tells_a_draft_that_comes_back_which_sessions_ended(
    stages: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else has to happen for it; else they would stay until they expire."""
    monkeypatch.setattr(target_loop, "TELL_AGAIN_S", 0.01)
    closed = threading.Event()

    def script(call: ProposeCall) -> None:
        if "a" in call.closed:
            closed.set()

    proposer = Scripted(script)
    proposer.is_available = False
    stages.append(stage := Stage(proposer))
    stage.loop.start()
    wait_for(send(stage.loop, [job("a", mode=Mode.FORCE)]))
    assert not closed.wait(0.05)
    proposer.is_available = True
    assert closed.wait(PATIENCE_S)


def test_a_failed_forward_refuses_every_stream_and_the_loop_goes_on(stages: list[Stage]) -> None:
    stages.append(stage := Stage(max_batch=2))
    stage.model.fails = 1
    lost = send(stage.loop, [job("a"), job("b"), job("waiting")])
    stage.loop.start()
    wait_for(lost)
    for client in lost:
        assert isinstance(client.last, Refused)
        assert client.last.status == 500
    assert stage.allocator.num_free_blocks == stage.allocator.num_blocks
    (client,) = send(stage.loop, [job("later")])
    wait_for([client])
    assert len(client.ids) == 5
    assert stage.loop.silent_s == 0.0


def test_a_draft_that_raises_costs_nothing_but_proposals(stages: list[Stage]) -> None:
    def dead(call: ProposeCall) -> None:
        raise ConnectionError("the actor is gone")

    client = DraftClient(PATIENCE_S, PATIENCE_S)
    client.connect(dead, epoch=1)  # type: ignore[arg-type]
    stages.append(stage := Stage(client))
    stage.loop.start()
    (forced,) = send(stage.loop, [job("a", 6, Mode.FORCE)])
    wait_for([forced])
    assert forced.ids == (8, 9, 10, 11, 12, 13)
    assert forced.usage.draft_misses == 4
    assert client.counters["calls_failed"] == 4


def test_right_proposals_save_forwards(stages: list[Stage]) -> None:
    right = by_row(lambda row, ids: ok(row, [ids[-1] + 1 + i for i in range(4)]))
    stages.append(stage := Stage(Scripted(right)))
    stage.loop.start()
    (client,) = send(stage.loop, [job("a", 21, Mode.AUTO)])
    wait_for([client])
    assert client.ids == tuple(range(8, 29))
    assert stage.model.num_forwards == 1 + 4
    assert client.usage.accepted_tokens == 16


def test_a_request_joins_a_batch_that_is_already_running(stages: list[Stage]) -> None:
    stages.append(stage := Stage())
    stage.hold()
    stage.loop.start()
    (first,) = send(stage.loop, [job("first", 40)])
    stage.wait_for_forward()
    (second,) = send(stage.loop, [job("second", 4)])
    stage.go()
    wait_for([first, second])
    assert stage.engine.counters["shared_forwards"] > 0
    assert second.ids == (8, 9, 10, 11)


def test_stop_ends_the_thread_in_the_middle_of_a_text() -> None:
    stage = Stage()
    stage.hold()
    stage.loop.start()
    client: Client
    (client,) = send(stage.loop, [job("a", 100)])
    stage.wait_for_forward()
    stage.go()
    stage.loop.stop()
    assert stage.loop.silent_s == float("inf")


def test_a_target_beside_a_draft_of_another_protocol_writes_the_plain_text(
    stages: list[Stage],
) -> None:
    """In every mode, though nothing is ever sent."""
    client = DraftClient(PATIENCE_S, PATIENCE_S)

    def never(call: ProposeCall) -> None:
        raise AssertionError("the draft was asked")

    client.connect(never, epoch=1, protocol_version=PROTOCOL_VERSION + 1)  # type: ignore[arg-type]
    stages.append(stage := Stage(client))
    stage.loop.start()
    clients = send(stage.loop, [job(mode, 6, mode) for mode in Mode])
    wait_for(clients)
    assert [each.ids for each in clients] == [(8, 9, 10, 11, 12, 13)] * 3
    assert client.counters["foreign_drafts"] == 1


def test_a_target_that_was_idle_is_not_stuck_and_one_in_a_long_forward_is(
    stages: list[Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock of its own: an hour of idleness does not count, two minutes of a forward do."""
    now_s = [0.0]
    monkeypatch.setattr(target_loop, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    stages.append(stage := Stage())
    stage.hold()
    stage.loop.start()
    now_s[0] = 3_600.0
    assert stage.loop.silent_s == 0.0
    send(stage.loop, [job("a")])
    stage.wait_for_forward()
    assert stage.loop.silent_s == 0.0
    now_s[0] += 120.0
    assert stage.loop.silent_s == 120.0
    stage.step()
    assert stage.loop.silent_s == 0.0


def test_a_row_is_drawn_by_its_own_seed_position_and_temperature() -> None:
    logits = torch.randn(6, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
    draws = [
        Draw(SamplingParams(seed, heat), position)
        for seed, position, heat in [
            (1, 5, 1.0),
            (2, 5, 1.0),
            (1, 6, 1.0),
            (1, 5, 0.0),
            (3, 9, 0.7),
        ]
    ]
    together = draw_rows(logits[:5], draws)
    alone = [draw_rows(logits[i : i + 1], [draw])[0] for i, draw in enumerate(draws)]
    assert together == alone
    assert together[3].token == int(logits[3].argmax())
    same = draw_rows(logits[:1].expand(3, -1), draws[:3])
    assert len(set(same)) > 1, "seed and position must matter"
    assert draw_rows(logits[:0], []) == []
