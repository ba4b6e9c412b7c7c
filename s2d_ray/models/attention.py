"""The attention seam: rows of many sequences, each attending to its own run of the KV pool.

`transformers` models call `ragged_attention` through the public AttentionInterface; the batch comes
in as the extra keyword argument `ragged`. A row's bits must not depend on the rows beside it. The
CPU kernel sums keys in blocks that depend on the shape of the call, so the shape is fixed: all
query rows of one call lie in one bucket of 64 positions, their number is padded to 8, 16, 32 or
64, and keys run to the end of the bucket under a -inf mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from s2d_ray.models.kv_pool import BLOCK, KVPool, Run

IMPLEMENTATION = "s2d_ragged"

_ROW_COUNTS = (8, 16, 32, 64)
_HARMLESS = {"dropout", "position_ids", "use_cache", "output_attentions", "cache_position"}


@dataclass(frozen=True)
class Segment:
    """Rows of one sequence in a packed forward; the first one stands at `first_position`.

    parents: empty for a chain, each row behind the one before it; for a tree parents[i] is the row
    of the segment that row i + 1 stands behind, at most i. Only the spine of a tree, which follows
    each row's first child, is left in the cache.
    """

    run: Run
    first_position: int
    num_rows: int
    parents: tuple[int, ...] = ()

    def depths(self) -> list[int]:
        """[rows] positions behind the first one."""
        depths = list(range(self.num_rows))
        for row, parent in enumerate(self.parents, start=1):
            depths[row] = depths[parent] + 1
        return depths

    def paths(self) -> list[list[int]]:
        """Rows from the first one to each leaf, the spine last."""
        if not self.parents:
            return [list(range(self.num_rows))]
        paths = {0: [0]}
        for row, parent in enumerate(self.parents, start=1):
            paths[row] = [*paths[parent], row]
        first_child = {parent: self.parents.index(parent) + 1 for parent in self.parents}
        tip = 0
        while tip in first_child:
            tip = first_child[tip]
        leaves = [row for row in paths if row not in first_child and row != tip]
        return [*(paths[leaf] for leaf in leaves), paths[tip]]


Rows = slice | Tensor
"""Which packed rows: a stretch of them, or [rows] int64."""


@dataclass(frozen=True)
class _Bucket:
    """One attention call: some packed rows, padded in number, against keys [0, num_keys)."""

    rows: Rows
    num_rows: int
    num_padded: int
    num_keys: int
    mask: Tensor  # [num_padded, num_keys]


@dataclass(frozen=True)
class _Branch:
    """One path of a segment: write its tail into the slots it will stand in, then attend to it.

    Branches of a tree take turns in the same slots, so that each row sees its ancestors as
    neighbours: a gap between keys would change bits.
    """

    run_start: int
    slot: int
    written: Rows
    buckets: tuple[_Bucket, ...]


class RaggedBatch:
    """The segments of one packed forward, and the masks that all its layers share."""

    def __init__(
        self, pool: KVPool, segments: Sequence[Segment], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.pool = pool
        self._dtype = dtype
        self._device = device
        self.branches: list[_Branch] = []
        self.num_rows = 0
        for segment in segments:
            self._add(segment)
            self.num_rows += segment.num_rows

    def _add(self, segment: Segment) -> None:
        """The branches of one segment, whose rows begin at `num_rows`."""
        held: list[int] = []  # row in each slot from the segment's first on
        attended: set[int] = set()
        for path in segment.paths():
            common = _num_common(held, path)
            held = [*path, *held[len(path) :]]
            fresh = next(depth for depth, row in enumerate(path) if row not in attended)
            attended.update(path)
            self.branches.append(
                _Branch(
                    segment.run.start,
                    segment.run.start + segment.first_position + common,
                    self._rows(path[common:]),
                    tuple(self._buckets(path[fresh:], segment.first_position + fresh)),
                )
            )

    def _buckets(self, path: list[int], position: int) -> Iterator[_Bucket]:
        """Cut a stretch of a path, which begins at `position`, where buckets of keys end."""
        while path:
            num_keys = (position // BLOCK + 1) * BLOCK
            num_rows = min(len(path), num_keys - position)
            num_padded = next(count for count in _ROW_COUNTS if count >= num_rows)
            mask = _causal_mask(position, num_padded, num_keys, self._dtype, self._device)
            yield _Bucket(self._rows(path[:num_rows]), num_rows, num_padded, num_keys, mask)
            path = path[num_rows:]
            position += num_rows

    def _rows(self, path: list[int]) -> Rows:
        first, last = self.num_rows + path[0], self.num_rows + path[-1]
        if last - first == len(path) - 1:  # rows rise along a path
            return slice(first, last + 1)
        return torch.tensor([self.num_rows + row for row in path], device=self._device)


def _num_common(held: list[int], path: list[int]) -> int:
    """Length of the common start. A path ends in a leaf, so it is never held whole."""
    count = 0
    while count < len(held) and held[count] == path[count]:
        count += 1
    return count


def _causal_mask(
    first_position: int, num_rows: int, num_keys: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """0 where a row may look, -inf behind its own position. [num_rows, num_keys]."""
    own = torch.arange(first_position, first_position + num_rows, device=device)
    keys = torch.arange(num_keys, device=device)
    mask = torch.zeros(num_rows, num_keys, dtype=dtype, device=device)
    return mask.masked_fill_(keys[None, :] > own[:, None], -torch.inf)


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    ragged: RaggedBatch,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Branch by branch, write the rows' keys and values to the pool and attend to them.

    Shapes: query [1, heads, rows, head_dim], key and value [1, kv_heads, rows, head_dim]
        -> [1, rows, heads, head_dim].
    Raises: NotImplementedError for an argument whose meaning this seam does not honour.
    """
    _refuse_unknown(sliding_window, others)
    layer = cast(int, module.layer_idx)
    pool = ragged.pool
    out = query.new_empty(1, ragged.num_rows, query.shape[1], query.shape[3])
    for branch in ragged.branches:
        pool.write(layer, branch.slot, key[0, :, branch.written], value[0, :, branch.written])
        for bucket in branch.buckets:
            keys, values = pool.view(layer, branch.run_start, bucket.num_keys)
            attended = _attend(query[0, :, bucket.rows], keys, values, bucket, scaling)
            out[0, bucket.rows] = attended.transpose(0, 1)
    return out, None


def _attend(query: Tensor, keys: Tensor, values: Tensor, bucket: _Bucket, scaling: float) -> Tensor:
    """Grouped attention of one bucket. [heads, rows, head_dim] -> [heads, rows, head_dim]."""
    num_heads, num_rows, head_dim = query.shape
    num_kv_heads = keys.shape[0]
    padded = query.new_zeros(num_heads, bucket.num_padded, head_dim)
    padded[:, :num_rows] = query
    # Query heads that share keys become a batch, over which the keys are expanded without a copy.
    grouped = padded.view(num_kv_heads, -1, bucket.num_padded, head_dim).transpose(0, 1)
    group = grouped.shape[0]
    attended = F.scaled_dot_product_attention(
        grouped,
        keys.expand(group, *keys.shape),
        values.expand(group, *values.shape),
        attn_mask=bucket.mask,
        scale=scaling,
    )
    return attended.transpose(0, 1).reshape(num_heads, bucket.num_padded, head_dim)[:, :num_rows]


def _refuse_unknown(sliding_window: int | None, others: dict[str, Any]) -> None:
    meaningful = {name for name, value in others.items() if value is not None} - _HARMLESS
    if sliding_window is not None:
        meaningful.add("sliding_window")
    if meaningful:
        raise NotImplementedError(f"attention arguments not supported: {sorted(meaningful)}")


AttentionInterface.register(IMPLEMENTATION, ragged_attention)
