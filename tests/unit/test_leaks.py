"""Nothing is kept of a thousand requests that ended, nor of a thousand that were aborted."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import pytest
import torch

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import JsonFormat, SamplingParams
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.draft_session import DraftSession
from s2d_ray.engine.sequence import Sequence
from s2d_ray.engine.target_batch import TargetBatch
from s2d_ray.engine.target_loop import TargetLoop
from s2d_ray.models.grammar import GrammarState
from s2d_ray.models.ragged import RaggedModel
from tests.targets import Job, make_engine, send, wait_for
from tests.tiny import EOS, threads, tiny_decoder, tiny_draft_network, tiny_text

PATIENCE_S = 60.0
NUM_REQUESTS = 1_000
GROWTH_BYTES = 16 * 2**20
"""A leak of 16 KiB a request would exceed it; the allocator's own drift does not."""


@dataclass
class House:
    """A target loop beside a draft loop."""

    model: RaggedModel
    batch: TargetBatch
    loop: TargetLoop
    draft: DraftLoop
    draft_blocks: Callable[[], tuple[int, int]]

    def is_empty(self) -> bool:
        blocks = self.model.pool.allocator
        free, whole = self.draft_blocks()
        return (
            self.batch.queue_depth == 0
            and blocks.num_free_blocks == blocks.num_blocks
            and self.draft.counters()["sessions"] == 0
            and free == whole
        )

    def wait_until_empty(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.is_empty():
            assert time.monotonic() < deadline_s, "a sequence, block or draft session is left"
            # The draft hears of ended sessions with the next call, so there must be one.
            wait_for(send(self.loop, [job("last", max_tokens=3)]))


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with threads(1):
        decoder = tiny_decoder(dtype=torch.float32, layers=2)
        network = tiny_draft_network(decoder, (1, 2), cache_tokens=1_024)
        engine = DraftEngine(network, {EOS})
        draft = DraftLoop(engine, num_threads=1)
        draft.start()
        client = DraftClient(deadline_s=30.0, force_deadline_s=30.0)
        client.connect(draft.submit, epoch=1)
        model = RaggedModel(decoder, cache_tokens=1_024)
        batch = make_engine(model, tiny_text(), eos=frozenset({EOS}))
        loop = TargetLoop(batch, model, client, num_threads=1)
        loop.start()
        allocator = network.pool.allocator

        def draft_blocks() -> tuple[int, int]:
            return allocator.num_free_blocks + engine.num_held_blocks, allocator.num_blocks

        yield House(model, batch, loop, draft, draft_blocks)
        loop.stop()
        draft.stop()


def job(name: str, max_tokens: int, **fields: object) -> Job:
    sampling = SamplingParams(7, 0.8, max_tokens=max_tokens, **fields)  # type: ignore[arg-type]
    return Job(name, (5, 6, 7, 8), sampling, Plan((0.5,), 0.0, 3, tree_width=2))


def num_alive() -> int:
    """Objects of requests that something still refers to."""
    gc.collect()
    kinds = (Sequence, DraftSession, GrammarState)
    return sum(isinstance(each, kinds) for each in gc.get_objects())


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def assert_flat(house: House, serve: Callable[[int], None]) -> None:
    """Serve a thousand; memory is measured from the two hundredth on, when caches are warm."""
    for number in range(NUM_REQUESTS):
        if number == NUM_REQUESTS // 5:
            before = resident_bytes()
        serve(number)
    house.wait_until_empty()
    assert num_alive() == 0
    assert resident_bytes() - before < GROWTH_BYTES


def test_a_thousand_requests_leave_nothing(house: House) -> None:
    def serve(number: int) -> None:
        fields = {"format": JsonFormat(), "top_k": 9} if number % 10 == 0 else {"logprobs": 2}
        clients = send(house.loop, [job(f"short-{number}", 6, **fields)])
        wait_for(clients)
        assert clients[0].usage.completion_tokens > 0

    assert_flat(house, serve)


def test_a_thousand_aborted_requests_leave_nothing(house: House) -> None:
    """Aborted before they are admitted, in their prompt, and in the middle of a text."""
    rng = random.Random(3)

    def serve(number: int) -> None:
        name = f"aborted-{number}"
        (client,) = send(house.loop, [job(name, 400, ignore_eos=True)])
        if rng.random() < 0.4:
            assert client.written.wait(PATIENCE_S)
        house.loop.abort(name)

    aborted = house.batch.counters["aborted"]
    assert_flat(house, serve)
    assert house.batch.counters["aborted"] - aborted == NUM_REQUESTS
