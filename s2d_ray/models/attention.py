"""The attention seam: rows of many sequences, each attending to its own run of the KV pool.

`transformers` models call `ragged_attention` through the public AttentionInterface; the batch comes
in as the extra keyword argument `ragged`. A row's bits must not depend on the rows beside it. The
CPU kernel sums keys in blocks that depend on the shape of the call, so the shape is fixed: all
query rows of one call lie in one bucket of 64 positions, their number is padded to 8, 16, 32 or
64, and keys run to the end of the bucket under a -inf mask.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Consecutive rows of one sequence in a packed forward, from `first_position` on."""

    run: Run
    first_position: int
    num_rows: int


@dataclass(frozen=True)
class _Bucket:
    """One attention call: packed rows [row, row + num_rows), padded, against keys [0, num_keys)."""

    run_start: int
    row: int
    num_rows: int
    num_padded: int
    num_keys: int
    mask: Tensor  # [num_padded, num_keys]


class RaggedBatch:
    """The segments of one packed forward and the masks all its layers share."""

    def __init__(
        self, pool: KVPool, segments: Sequence[Segment], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.pool = pool
        self.segments = tuple(segments)
        self.buckets: list[_Bucket] = []
        row = 0
        for segment in segments:
            position, end = segment.first_position, segment.first_position + segment.num_rows
            while position < end:
                num_keys = (position // BLOCK + 1) * BLOCK
                num_rows = min(end, num_keys) - position
                num_padded = next(count for count in _ROW_COUNTS if count >= num_rows)
                mask = _causal_mask(position, num_padded, num_keys, dtype, device)
                bucket = _Bucket(segment.run.start, row, num_rows, num_padded, num_keys, mask)
                self.buckets.append(bucket)
                row += num_rows
                position += num_rows
        self.num_rows = row


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
    """Write the rows' keys and values to the pool, then attend run by run.

    Shapes: query [1, heads, rows, head_dim], key and value [1, kv_heads, rows, head_dim]
        -> [1, rows, heads, head_dim].
    Raises: NotImplementedError for an argument whose meaning this seam does not honour.
    """
    _refuse_unknown(sliding_window, others)
    layer = cast(int, module.layer_idx)
    pool = ragged.pool
    row = 0
    for segment in ragged.segments:
        rows = slice(row, row + segment.num_rows)
        slot = segment.run.start + segment.first_position
        pool.write(layer, slot, key[0, :, rows], value[0, :, rows])
        row += segment.num_rows
    out = query.new_empty(1, ragged.num_rows, query.shape[1], query.shape[3])
    for bucket in ragged.buckets:
        keys, values = pool.view(layer, bucket.run_start, bucket.num_keys)
        rows = slice(bucket.row, bucket.row + bucket.num_rows)
        attended = _attend(query[0, :, rows], keys, values, bucket, scaling)
        out[0, rows] = attended.transpose(0, 1)
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
