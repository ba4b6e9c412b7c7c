"""The attention seam: rows of many sequences, each attending to its own run of the KV pool.

`transformers` models call `ragged_attention` through the public AttentionInterface; the batch comes
in as the extra keyword argument `ragged`. A row's bits must not depend on the rows beside it. The
CPU kernel sums keys in blocks that depend on the shape of the call, so the shape is fixed: all
query rows of one call lie in one bucket of 64 positions, their number is padded to 8, 16, 32 or
64, and keys run to the end of the bucket under a -inf mask; in a layer with a sliding window they
begin where a block of 64 does, before the window of the bucket's first row. Query heads that share
keys are rows of one block while they fit in it, so that padding is paid once for all of them.
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


Rows = slice | tuple[int, ...]
"""Which packed rows: a stretch of them, or one by one."""


@dataclass(frozen=True)
class _Bucket:
    """One attention call: packed rows, the first at `position`, that share a bucket of keys."""

    rows: Rows
    num_rows: int
    position: int

    def fold(self, group: int) -> int:
        """How many of the `group` query heads that share keys are rows of one block."""
        return group if group * self.num_rows <= _ROW_COUNTS[-1] else 1

    def num_padded(self, fold: int) -> int:
        """Rows of a block of `fold` heads, padding included."""
        return next(count for count in _ROW_COUNTS if count >= fold * self.num_rows)

    def keys(self, window: int | None) -> range:
        """Positions of the keys. They depend on the bucket alone, so a row always sees as many."""
        start = self.position // BLOCK * BLOCK
        first = 0 if window is None else max(0, start - window + 1) // BLOCK * BLOCK
        return range(first, start + BLOCK)


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
    """The segments of one packed forward, and the masks and buffers that its layers share."""

    def __init__(self, pool: KVPool, segments: Sequence[Segment]) -> None:
        self.pool = pool
        self.branches: list[_Branch] = []
        self.num_rows = 0
        self._indices: dict[tuple[Rows, torch.device], Tensor] = {}
        self._masks: dict[tuple[int, int, int, int | None, torch.device], Tensor] = {}
        self._blocks: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
        for segment in segments:
            self._add(segment)
            self.num_rows += segment.num_rows

    def index(self, rows: Rows, device: torch.device) -> slice | Tensor:
        """What picks `rows` out of a tensor on `device`."""
        if isinstance(rows, slice):
            return rows
        key = (rows, device)
        if key not in self._indices:
            self._indices[key] = torch.tensor(rows, device=device)
        return self._indices[key]

    def mask(self, bucket: _Bucket, fold: int, window: int | None, like: Tensor) -> Tensor:
        """The mask of a block of `fold` heads in layers of this window, built once.

        [num_padded, keys].
        """
        key = (bucket.position, bucket.num_rows, fold, window, like.device)
        if key not in self._masks:
            self._masks[key] = _mask(bucket, fold, window, like)
        return self._masks[key]

    def block(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A buffer for padded queries; what an earlier call left in its padding is finite."""
        key = (like.device, shape)
        if key not in self._blocks:
            self._blocks[key] = like.new_zeros(shape)
        return self._blocks[key]

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
            num_rows = min(len(path), BLOCK - position % BLOCK)
            yield _Bucket(self._rows(path[:num_rows]), num_rows, position)
            path = path[num_rows:]
            position += num_rows

    def _rows(self, path: list[int]) -> Rows:
        first, last = self.num_rows + path[0], self.num_rows + path[-1]
        if last - first == len(path) - 1:  # rows rise along a path
            return slice(first, last + 1)
        return tuple(self.num_rows + row for row in path)


def _num_common(held: list[int], path: list[int]) -> int:
    """Length of the common start. A path ends in a leaf, so it is never held whole."""
    count = 0
    while count < len(held) and held[count] == path[count]:
        count += 1
    return count


def _mask(bucket: _Bucket, fold: int, window: int | None, like: Tensor) -> Tensor:
    """0 where a row may look, -inf behind its own position and before its window.

    Padding looks where some row does: a row that sees no key would be NaN.
    """
    positions = bucket.keys(window)
    keys = torch.arange(positions.start, positions.stop, device=like.device)[None, :]
    rows = torch.arange(bucket.num_padded(fold), device=like.device)[:, None]
    own = bucket.position + rows % bucket.num_rows
    hidden = keys > own
    if window is not None:
        hidden |= keys <= own - window
    mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(hidden, -torch.inf)


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
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Branch by branch, write the rows' keys and values to the pool and attend to them.

    sliding_window: keys that a row sees, its own included; softcap: bound of the scores.
    Shapes: query [1, heads, rows, head_dim], key and value [1, kv_heads, rows, head_dim]
        -> [1, rows, heads, head_dim].
    Raises: NotImplementedError for an argument whose meaning this seam does not honour.
    """
    _refuse_unknown(others)
    layer = cast(int, module.layer_idx)
    pool, device = ragged.pool, query.device
    num_kv_heads, head_dim = key.shape[1], key.shape[3]
    grouped = query[0].unflatten(0, (num_kv_heads, -1))
    group = grouped.shape[1]
    out = query.new_empty(ragged.num_rows, num_kv_heads, group, head_dim)
    for branch in ragged.branches:
        written = ragged.index(branch.written, device)
        pool.write(layer, branch.slot, key[0, :, written], value[0, :, written])
        for bucket in branch.buckets:
            rows, positions = ragged.index(bucket.rows, device), bucket.keys(sliding_window)
            keys, values = pool.view(layer, branch.run_start + positions.start, len(positions))
            fold = bucket.fold(group)
            mask = ragged.mask(bucket, fold, sliding_window, query)
            shape = (group // fold, num_kv_heads, mask.shape[0], head_dim)
            block = ragged.block(shape, query)
            _rows_of(block, fold, bucket.num_rows).copy_(grouped[:, :, rows])
            attended = _attend(block, keys, values, mask, scaling, softcap)
            out[rows] = _rows_of(attended, fold, bucket.num_rows).permute(2, 0, 1, 3)
    return out.view(1, ragged.num_rows, -1, head_dim), None


def _rows_of(block: Tensor, fold: int, num_rows: int) -> Tensor:
    """A view of a block without its padding, its query heads apart again.

    Shapes: [group / fold, kv_heads, num_padded, head_dim] -> [kv_heads, group, rows, head_dim].
    """
    rows = block[:, :, : fold * num_rows]
    if fold == 1:
        return rows.transpose(0, 1)
    apart: Tensor = rows[0].unflatten(1, (fold, num_rows))
    return apart


def _attend(
    block: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Grouped attention of one bucket; the keys are expanded without a copy.

    Shapes: block [batch, kv_heads, rows, head_dim], keys and values [kv_heads, keys, head_dim]
        -> like block.
    """
    batch = block.shape[0]
    keys, values = keys.expand(batch, *keys.shape), values.expand(batch, *values.shape)
    if softcap is not None:
        return _capped_attention(block, keys, values, mask, scaling, softcap)
    return F.scaled_dot_product_attention(block, keys, values, attn_mask=mask, scale=scaling)


def _capped_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float, softcap: float
) -> Tensor:
    """Attention whose scores are bounded by `softcap`, which no fused kernel of the CPU offers."""
    scores = torch.matmul(query, keys.transpose(-1, -2)) * scaling
    scores = torch.tanh(scores / softcap) * softcap + mask
    exact = torch.promote_types(scores.dtype, torch.float32)
    return torch.matmul(torch.softmax(scores, -1, dtype=exact).to(values.dtype), values)


def _refuse_unknown(others: dict[str, Any]) -> None:
    meaningful = {name for name, value in others.items() if value is not None} - _HARMLESS
    if meaningful:
        raise NotImplementedError(f"attention arguments not supported: {sorted(meaningful)}")


AttentionInterface.register(IMPLEMENTATION, ragged_attention)
