"""The attention seam: rows of many sequences, each attending to its own run of the KV pool.

`transformers` models call `ragged_attention` through the public AttentionInterface; the batch comes
in as the extra keyword argument `ragged`. A row's bits must not depend on the rows beside it. The
CPU kernel sums keys in blocks that depend on the shape of the call, so the shape is fixed: all
query rows of one call lie in one bucket of 64 positions, their number is padded to 8, 16, 32 or
64, and keys run to the end of the bucket under a -inf mask; in a layer with a sliding window they
begin where a block of 64 does, before the window of the bucket's first row. Query heads that share
keys are rows of one block while they fit in it, so that padding is paid once for all of them.
Which rows share a call is decided once per forward, in `layout.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from s2d_ray.core.threads import OneThread
from s2d_ray.models.kv_pool import BLOCK, KVPool, Run
from s2d_ray.models.layout import Bucket, Call, Layout, Turn, lay_out

IMPLEMENTATION = "s2d_ragged"

_ONE_THREAD = 3 * 8 * 64 * 1_024
"""Products of an attention call, numbers of its queries times keys, below which one thread is
faster: a few tens of microseconds, about what it takes to wake a second one."""

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


class RaggedBatch:
    """The segments of one packed forward, and the layouts that its layers share."""

    def __init__(self, pool: KVPool, segments: Sequence[Segment]) -> None:
        self.pool = pool
        self.num_rows = 0
        self._turns: list[Turn] = []
        self._layouts: dict[tuple[int | None, torch.device], Layout] = {}
        for segment in segments:
            self._add(segment)
            self.num_rows += segment.num_rows

    def layout(self, num_kv_heads: int, window: int | None, query: Tensor) -> Layout:
        """The layout of layers of this window on the query's device, made once."""
        key = (window, query.device)
        if key not in self._layouts:
            self._layouts[key] = lay_out(self._turns, self.num_rows, num_kv_heads, window, query)
        return self._layouts[key]

    def _add(self, segment: Segment) -> None:
        """The branches of one segment, whose rows begin at `num_rows`, each in the next turn.

        A branch writes its tail, what differs from the branch before it, and attends the rows that
        no branch before it has.
        """
        run, first = segment.run.start, segment.first_position
        held: list[int] = []  # row in each slot from the segment's first on
        attended: set[int] = set()
        for number, path in enumerate(segment.paths()):
            common = _num_common(held, path)
            held = [*path, *held[len(path) :]]
            fresh = next(depth for depth, row in enumerate(path) if row not in attended)
            attended.update(path)
            rows = [self.num_rows + row for row in path]
            if number == len(self._turns):
                self._turns.append(Turn())
            turn = self._turns[number]
            turn.rows += rows[common:]
            turn.slots += range(run + first + common, run + first + len(rows))
            turn.buckets += _buckets(run, first + fresh, rows[fresh:])


def _num_common(held: list[int], path: list[int]) -> int:
    """Length of the common start. A path ends in a leaf, so it is never held whole."""
    count = 0
    while count < len(held) and held[count] == path[count]:
        count += 1
    return count


def _buckets(run_start: int, position: int, rows: list[int]) -> Iterator[Bucket]:
    """Cut a stretch of a path, which begins at `position`, where buckets of keys end."""
    while rows:
        num_rows = min(len(rows), BLOCK - position % BLOCK)
        yield Bucket(run_start, position, tuple(rows[:num_rows]))
        rows = rows[num_rows:]
        position += num_rows


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
    """Turn by turn, write the rows' keys and values to the pool and attend to them.

    sliding_window: keys that a row sees, its own included; softcap: bound of the scores.
    Shapes: query [1, heads, rows, head_dim], key and value [1, kv_heads, rows, head_dim]
        -> [1, rows, heads, head_dim].
    Raises: NotImplementedError for an argument whose meaning this seam does not honour.
    """
    _refuse_unknown(others)
    layer, pool = cast(int, module.layer_idx), ragged.pool
    head_dim = query.shape[3]
    layout = ragged.layout(key.shape[1], sliding_window, query)
    heads = query[0].transpose(0, 1).reshape(-1, head_dim)
    layout.blocks.index_copy_(0, layout.places, heads)
    attended = []
    for turn in layout.turns:
        keys, values = key[0], value[0]
        if turn.rows is not None:
            keys, values = keys.index_select(1, turn.rows), values.index_select(1, turn.rows)
        pool.write(layer, turn.slots, keys, values)
        for call in turn.calls:
            keys, values = pool.view(
                layer, call.first_slot, call.num_keys, call.queries.shape[0], call.distance
            )
            out = _attend(call, keys, values, scaling, softcap)
            attended.append(out.transpose(1, 2).reshape(-1, head_dim))
    blocks = attended[0] if len(attended) == 1 else torch.cat(attended)
    return blocks.index_select(0, layout.places).view(1, ragged.num_rows, -1, head_dim), None


def _attend(
    call: Call, keys: Tensor, values: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    """Grouped attention of one call, on one thread where waking a second one takes longer.

    Shapes: keys and values [blocks, kv_heads, keys, head_dim] -> like the queries.
    """
    if softcap is not None:
        return _capped_attention(call.queries, keys, values, call.mask, scaling, softcap)
    is_small = call.queries.numel() * call.num_keys < _ONE_THREAD
    with OneThread() if is_small else nullcontext():
        return F.scaled_dot_product_attention(
            call.queries, keys, values, attn_mask=call.mask, scale=scaling
        )


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
