"""The KV pool: blocks of 64 positions, handed out as one contiguous run per sequence.

Attention reads a run as a view, so a decode step writes its own rows and moves nothing else. A run
grows in place while the blocks behind it are free, and moves to a longer gap otherwise; freeing it
is bookkeeping only. What a freed run held stays there as finite numbers behind a -inf mask, so it
never reaches a result.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from s2d_ray.models.kv_budget import BLOCK as BLOCK


@dataclass(frozen=True)
class Run:
    """A contiguous stretch of slots; position p of the sequence lives in slot start + p."""

    start: int
    num_slots: int


@dataclass(frozen=True)
class Copy:
    """Keys and values of `num_tokens` positions, from slot `source` on to slot `target` on."""

    source: int
    target: int
    num_tokens: int


class RunAllocator:
    """First-fit allocation of contiguous block runs. Pure bookkeeping, no tensors."""

    def __init__(self, num_tokens: int) -> None:
        self.num_blocks = num_tokens // BLOCK
        self._free: list[tuple[int, int]] = [(0, self.num_blocks)] if self.num_blocks else []

    @property
    def num_free_blocks(self) -> int:
        """Blocks in no run."""
        return sum(length for _, length in self._free)

    def fits(self, num_tokens: int) -> bool:
        """Whether an empty pool could hold a run of `num_tokens`."""
        return blocks_for(num_tokens) <= self.num_blocks

    def fits_without(self, num_tokens: int, runs: Iterable[Run]) -> bool:
        """Whether a run of `num_tokens` could be had by giving back these runs."""
        released = ((run.start // BLOCK, run.num_slots // BLOCK) for run in runs)
        gaps = _joined(sorted([*self._free, *released]))
        return any(length >= blocks_for(num_tokens) for _, length in gaps)

    def reserve(self, num_tokens: int) -> Run | None:
        """A run for `num_tokens` positions, or None if no gap is long enough now."""
        wanted = blocks_for(num_tokens)
        start = next((start for start, length in self._free if length >= wanted), None)
        return None if start is None else self._take(start, wanted)

    def grow(self, run: Run, num_tokens: int) -> Run | None:
        """A longer run instead of one in use, or None, and nothing changes, if there is no room.

        It stays where it is if the blocks behind it are free; else it moves to the first gap that
        is long enough, its own blocks counted in, so the two may overlap.
        """
        start, wanted = run.start // BLOCK, blocks_for(num_tokens)
        self.release(run)
        grown = self._take(start, wanted) or self.reserve(num_tokens)
        if grown is None:
            self._take(start, run.num_slots // BLOCK)
        return grown

    def _take(self, start: int, wanted: int) -> Run | None:
        """The run of just these blocks, or None if they are not all free."""
        for index, (first, length) in enumerate(self._free):
            before, behind = start - first, first + length - start - wanted
            if before >= 0 and behind >= 0:
                rest = [(first, before), (start + wanted, behind)]
                self._free[index : index + 1] = [gap for gap in rest if gap[1]]
                return Run(start * BLOCK, wanted * BLOCK)
        return None

    def shrink(self, run: Run, num_tokens: int) -> Run:
        """Give back the blocks of a run behind its first `num_tokens` positions. -> the rest."""
        kept = Run(run.start, blocks_for(num_tokens) * BLOCK)
        if kept.num_slots < run.num_slots:
            self.release(Run(run.start + kept.num_slots, run.num_slots - kept.num_slots))
        return kept

    def release(self, run: Run) -> None:
        """Give a run back; neighbouring gaps join."""
        bisect.insort(self._free, (run.start // BLOCK, run.num_slots // BLOCK))
        self._free = _joined(self._free)


def blocks_for(num_tokens: int) -> int:
    """Blocks of a run of `num_tokens`."""
    return max(1, -(-num_tokens // BLOCK))


def _joined(gaps: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches (start, length) in order, neighbours made one."""
    joined: list[tuple[int, int]] = []
    for start, length in gaps:
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((start, length))
    return joined


def lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose memory a CPU host hands out page by page on first write."""
    if device.type != "cpu" or 0 in shape:
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, np.uint8)).view(dtype).view(shape)


class KVPool:
    """Keys and values of all layers, each where its layer computes.

    devices: one per layer. Shapes: keys and values of a layer [kv_heads, slots, head_dim].
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        num_kv_heads: int,
        head_dim: int,
        num_tokens: int,
        dtype: torch.dtype,
    ) -> None:
        self.allocator = RunAllocator(num_tokens)
        shape = (num_kv_heads, self.allocator.num_blocks * BLOCK, head_dim)
        self._keys = [lazy_zeros(shape, dtype, device) for device in devices]
        self._values = [lazy_zeros(shape, dtype, device) for device in devices]
        self.bytes_written = 0

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store rows, each in its slot. Shapes: slots [rows], [kv_heads, rows, head_dim]."""
        self._keys[layer].index_copy_(1, slots, keys)
        self._values[layer].index_copy_(1, slots, values)
        self.bytes_written += 2 * keys.numel() * keys.element_size()

    def copy(self, copy: Copy) -> None:
        """Copy positions of one run into another, in all layers; the two may overlap."""
        source = slice(copy.source, copy.source + copy.num_tokens)
        target = slice(copy.target, copy.target + copy.num_tokens)
        overlap = abs(copy.source - copy.target) < copy.num_tokens
        for layer in (*self._keys, *self._values):
            layer[:, target] = layer[:, source].clone() if overlap else layer[:, source]
            self.bytes_written += layer[:, target].numel() * layer.element_size()

    def view(
        self, layer: int, start: int, num_keys: int, num_blocks: int, distance: int
    ) -> tuple[Tensor, Tensor]:
        """Keys and values from slots start + i * distance on, without a copy.

        [num_blocks, kv_heads, num_keys, head_dim].
        """
        whole = self._keys[layer]
        head, slot, _ = whole.stride()
        shape = (num_blocks, whole.shape[0], num_keys, whole.shape[2])
        strides = (distance * slot, head, slot, 1)
        keys = whole.as_strided(shape, strides, start * slot)
        return keys, self._values[layer].as_strided(shape, strides, start * slot)
