"""The KV pool: runs never overlap, gaps join, and a decode step moves only its own rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import BLOCK, Copy, KVPool, Run, RunAllocator
from s2d_ray.models.ragged import RaggedModel
from tests.tiny import tiny_decoder

CPU = torch.device("cpu")
NUM_BLOCKS = 12


class AllocatorMachine(RuleBasedStateMachine):
    """Any order of reservations, growth and releases, against the set of blocks in use."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = RunAllocator(NUM_BLOCKS * BLOCK + 5)
        self.held: list[Run] = []

    @staticmethod
    def blocks(run: Run) -> set[int]:
        return set(range(run.start // BLOCK, (run.start + run.num_slots) // BLOCK))

    def free(self) -> set[int]:
        return set(range(NUM_BLOCKS)).difference(*(self.blocks(run) for run in self.held))

    def longest_gap(self, *without: Run) -> int:
        free, longest = self.free().union(*map(self.blocks, without)), 0
        for start in free:
            length = 0
            while start + length in free:
                length += 1
            longest = max(longest, length)
        return longest

    @rule(target=runs, num_tokens=st.integers(0, (NUM_BLOCKS + 2) * BLOCK))
    def reserve(self, num_tokens: int) -> Run | None:
        wanted = max(1, -(-num_tokens // BLOCK))
        run = self.allocator.reserve(num_tokens)
        assert (run is not None) == (wanted <= self.longest_gap())
        if run is not None:
            assert run.start % BLOCK == 0
            assert run.num_slots == wanted * BLOCK >= num_tokens
            assert self.blocks(run) <= self.free()
            self.held.append(run)
        return run

    @rule(target=runs, run=consumes(runs), num_tokens=st.integers(0, (NUM_BLOCKS + 2) * BLOCK))
    def grow(self, run: Run | None, num_tokens: int) -> Run | None:
        """In place if it can be, else wherever there is room, its own blocks counted in."""
        if run is None or num_tokens <= run.num_slots:
            return run
        wanted = -(-num_tokens // BLOCK)
        could = self.allocator.fits_without(num_tokens, [run])
        grown = self.allocator.grow(run, num_tokens)
        assert (grown is not None) == could == (wanted <= self.longest_gap(run))
        if grown is None:
            return run
        behind = set(range(run.start // BLOCK, run.start // BLOCK + wanted)) - self.blocks(run)
        if behind <= self.free():
            assert grown.start == run.start
        assert grown.num_slots == wanted * BLOCK
        assert self.blocks(grown) <= self.free() | self.blocks(run)
        self.held[self.held.index(run)] = grown
        return grown

    @rule(run=consumes(runs), num_tokens=st.integers(0, (NUM_BLOCKS + 2) * BLOCK))
    def shrink(self, run: Run | None, num_tokens: int) -> None:
        """What is left is its beginning; here it is given back too."""
        if run is not None and num_tokens <= run.num_slots:
            kept = self.allocator.shrink(run, num_tokens)
            assert kept == Run(run.start, max(1, -(-num_tokens // BLOCK)) * BLOCK)
            self.held.remove(run)
            self.allocator.release(kept)

    @rule(run=consumes(runs))
    def release(self, run: Run | None) -> None:
        if run is not None:
            self.held.remove(run)
            self.allocator.release(run)

    @rule(num_tokens=st.integers(0, (NUM_BLOCKS + 2) * BLOCK))
    def fits(self, num_tokens: int) -> None:
        assert self.allocator.fits(num_tokens) == (num_tokens <= NUM_BLOCKS * BLOCK)

    @invariant()
    def counts_its_free_blocks(self) -> None:
        assert self.allocator.num_free_blocks == len(self.free())


# Runs never overlap, a run is refused only if no gap is long enough, and released gaps join: the
# longest gap that the allocator serves is always the longest there is. What cannot grow stays.
AllocatorMachine.TestCase.settings = settings(max_examples=60, deadline=None)
TestAllocator = AllocatorMachine.TestCase


def test_what_is_written_is_viewed_and_a_view_is_no_copy() -> None:
    """Attention reads runs in place: a view shares the pool's memory and sees later writes."""
    pool = KVPool([CPU, CPU], 3, 8, 256, torch.float32)
    keys, values = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    before, _ = pool.view(1, 64, 64, 1, 0)
    pool.write(1, torch.tensor([84, 85, 86, 87, 200]), keys, values)
    seen_keys, seen_values = pool.view(1, 64, 64, 1, 0)
    assert torch.equal(seen_keys[0, :, 20:24], keys[:, :4])
    assert torch.equal(seen_values[0, :, 20:24], values[:, :4])
    assert before.data_ptr() == seen_keys.data_ptr()
    assert torch.equal(before, seen_keys)
    other_layer, _ = pool.view(0, 64, 64, 1, 0)
    assert not other_layer.any()
    both, _ = pool.view(1, 64, 64, 2, 100)
    assert torch.equal(both[0], seen_keys[0])
    assert torch.equal(both[1, :, 36], keys[:, 4])


@pytest.mark.parametrize(("source", "target"), [(0, 64), (128, 0), (64, 128), (0, 256)])
def test_a_copy_into_blocks_that_overlap_its_source_is_whole(source: int, target: int) -> None:
    """A run may move by less than its length."""
    pool = KVPool([CPU, CPU], 2, 4, 512, torch.float32)
    keys, values = torch.randn(2, 150, 4), torch.randn(2, 150, 4)
    pool.write(1, torch.arange(source, source + 150), keys, values)
    pool.copy(Copy(source, target, 150))
    seen_keys, seen_values = pool.view(1, target, 150, 1, 0)
    assert torch.equal(seen_keys[0], keys)
    assert torch.equal(seen_values[0], values)


@pytest.mark.parametrize("num_sequences", [1, 3])
def test_the_bytes_a_decode_step_writes_do_not_depend_on_the_context(num_sequences: int) -> None:
    """A step at 900 positions moves as much as one at 10: keys and values of its own rows."""
    model = RaggedModel(tiny_decoder(layers=2), 4_096)
    runs = [model.pool.allocator.reserve(1_000) for _ in range(num_sequences)]
    written = []
    for position in (10, 63, 64, 500, 900):
        before = model.pool.bytes_written
        segments = [Segment(run, position, 1) for run in runs if run is not None]
        model.forward([1] * num_sequences, segments, [0])
        written.append(model.pool.bytes_written - before)
    layers, kv_heads, head_dim, float64_bytes = 2, 2, 16, 8
    assert written == [2 * layers * kv_heads * head_dim * float64_bytes * num_sequences] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_an_unwritten_pool_is_zero_in_every_dtype(dtype: torch.dtype) -> None:
    """Masked keys meet finite numbers, never leftovers that could be NaN."""
    pool = KVPool([CPU], 2, 4, 128, dtype)
    keys, values = pool.view(0, 0, 128, 1, 0)
    assert keys.dtype == values.dtype == dtype
    assert not keys.any()
    assert not values.any()
