"""Memory that does not suffice costs one text its turn, or its place; never the replica."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from s2d_ray.core.memory import is_out_of_memory
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.messages import NO_MEMORY, Event, Mode, Refused
from s2d_ray.engine.protocol import ProposeCall, RowStatus
from s2d_ray.models.attention import Segment
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.serve import engine_calls
from tests.drafting import LONG_BUDGET_MS, SHALLOW, Targets, story
from tests.scripted import Oracle, Scripted, by_row
from tests.targets import PATIENCE_S, Client, Job, Recording, make_engine, write
from tests.tiny import EOS, VOCAB_SIZE, tiny_decoder, tiny_draft_network, tiny_text

POISON = 7
"""A prompt of this id alone takes more memory than there is."""


def real_cpu_error() -> None:
    torch.empty(1 << 48)


def real_python_error() -> None:
    bytearray(1 << 62)


def gpu_error() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def other_error() -> None:
    torch.zeros(2) @ torch.zeros(3)


@pytest.mark.parametrize(
    ("fail", "expected"),
    [(real_cpu_error, True), (real_python_error, True), (gpu_error, True), (other_error, False)],
)
def test_lack_of_memory_is_told_from_other_errors(fail: Callable[[], None], expected: bool) -> None:
    """The first two are what torch and Python really raise here."""
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        fail()
    assert is_out_of_memory(caught.value) is expected


class Short(Recording):
    """A model whose memory does not suffice for some forwards, as `fails` says."""

    def __init__(self, fails: Callable[[Sequence[int], Sequence[Segment]], bool]) -> None:
        decoder = tiny_decoder("llama", torch.float32, layers=2, seed=8, linear="packed")
        super().__init__(RaggedModel(decoder, 2_048))
        self._fails = fails
        self.num_failures = 0

    def forward(
        self, token_ids: Sequence[int], segments: Sequence[Segment], wanted_rows: Sequence[int]
    ) -> Tensor:
        if self._fails(token_ids, segments):
            self.num_failures += 1
            real_cpu_error()
        return super().forward(token_ids, segments, wanted_rows)


def never(token_ids: Sequence[int], segments: Sequence[Segment]) -> bool:
    return False


def holds_poison(token_ids: Sequence[int], segments: Sequence[Segment]) -> bool:
    """Whether a chunk of the poisoned prompt is among the rows."""
    row = 0
    for segment in segments:
        own = token_ids[row : row + segment.num_rows]
        row += segment.num_rows
        if len(own) > 1 and set(own) == {POISON}:
            return True
    return False


def jobs() -> list[Job]:
    """Six texts, some sampled, with prompts of several chunks among them."""
    return [
        Job(
            f"job-{number}",
            tuple(10 + (number * 5 + i) % 40 for i in range(length)),
            SamplingParams(number, 0.0 if number % 2 else 0.9, max_tokens=12),
        )
        for number, length in enumerate((5, 40, 9, 21, 3, 70))
    ]


def written(model: Short, todo: list[Job], proposer: Scripted | None = None) -> list[Client]:
    """The texts; in the end no block is missing."""
    engine = make_engine(
        model, tiny_text(), eos=frozenset({EOS}), max_batch=4, prefill_chunk=16, prefix_cache=True
    )
    clients = write(model, engine, todo, proposer)
    allocator = model.pool.allocator
    assert allocator.num_free_blocks + engine.num_held_blocks == allocator.num_blocks
    assert engine.counters["out_of_memory"] == model.num_failures
    return clients


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("speculates", [False, True])
def test_texts_are_the_same_however_often_memory_did_not_suffice_for_several(
    seed: int, speculates: bool
) -> None:
    """A third of all forwards of several texts fail; every text ends as it would have."""
    todo = jobs()
    undisturbed = written(Short(never), todo)
    rng = random.Random(seed)
    short = Short(lambda ids, segments: len(segments) > 1 and rng.random() < 0.33)
    proposer = None
    if speculates:
        texts = {
            job.name: [*job.prompt_ids, *client.ids]
            for job, client in zip(todo, undisturbed, strict=True)
        }
        proposer = Scripted(by_row(Oracle(texts, VOCAB_SIZE, error_rate=0.3, seed=seed)))
    clients = written(short, todo, proposer)
    assert short.num_failures > 3
    assert [client.outcome for client in clients] == [each.outcome for each in undisturbed]


def test_where_only_one_text_fits_they_are_written_one_after_another() -> None:
    undisturbed = written(Short(never), jobs())
    short = Short(lambda ids, segments: len(segments) > 1)
    clients = written(short, jobs())
    assert short.num_failures > 0
    assert [client.outcome for client in clients] == [each.outcome for each in undisturbed]


@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_text_that_does_not_fit_alone_is_refused_and_the_others_end(place: int) -> None:
    """Wherever in the queue it stands, and though its neighbours run beside it at first."""
    todo = jobs()
    undisturbed = written(Short(never), todo)
    prompt = (POISON,) * 33
    todo.insert(place, Job("poison", prompt, SamplingParams(1, 0.0, max_tokens=4), mode=Mode.OFF))
    clients = written(Short(holds_poison), todo)
    refused = clients.pop(place)
    assert refused.last == NO_MEMORY
    assert isinstance(refused.last, Refused)
    assert (refused.last.status, refused.last.code) == (503, "out_of_memory")
    assert [client.outcome for client in clients] == [each.outcome for each in undisturbed]


def test_a_request_that_cannot_be_prepared_for_lack_of_memory_is_refused() -> None:
    def prepare(request: Any) -> None:
        raise MemoryError

    async def events() -> list[Event]:
        engine: Any = SimpleNamespace(prepare=prepare)
        return [event async for event in engine_calls.generate(engine, jobs()[0].request())]

    assert asyncio.run(events()) == [NO_MEMORY]


# The draft ----------------------------------------------------------------------------------------


def draft_engine() -> tuple[DraftEngine, Any]:
    network = tiny_draft_network(tiny_decoder(), (2, 4, 6), tuple(range(0, VOCAB_SIZE, 2)), 1_024)
    return DraftEngine(network, ()), network


def test_a_draft_without_memory_answers_with_what_there_is_and_starts_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, network = draft_engine()
    loop = DraftLoop(engine, num_threads=1)
    loop.start()
    try:
        one = story("x", plan=SHALLOW)
        call = ProposeCall(one.replica, 1, LONG_BUDGET_MS, (one.row(),))
        with monkeypatch.context() as patch:
            patch.setattr(network, "run_group", lambda *arguments: real_cpu_error())
            [row] = loop.submit(call).result(PATIENCE_S).rows
        assert row.tokens == ()
        assert engine.num_sessions == 0
        assert engine.counters["failed_steps"] == 1
        assert loop.stuck_for_s() < float("inf"), "the thread lives"
    finally:
        loop.stop()
    assert row.status is RowStatus.OK
    fresh = Targets(draft_engine()[0]).settle(story("x", plan=SHALLOW))
    assert Targets(engine).settle(story("x", plan=SHALLOW)).tokens == fresh.tokens
