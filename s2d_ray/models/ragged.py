"""One packed forward over rows of many sequences, and the check that packing changes no bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from s2d_ray.errors import ModelError
from s2d_ray.models.attention import RaggedBatch, Segment
from s2d_ray.models.kv_budget import LEAST_TOKENS, TokenSize
from s2d_ray.models.kv_pool import BLOCK, Copy, KVPool


class RaggedModel:
    """A causal LM over one KV pool. Not thread-safe: one forward at a time.

    has_stock_linears: whether any layer is one that promises nothing about bits.
    """

    def __init__(self, decoder: Any, cache_tokens: int) -> None:
        self.decoder = decoder
        config = decoder.config
        weight = decoder.model.embed_tokens.weight
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.vocab_size: int = config.vocab_size
        self.max_positions: int = config.max_position_embeddings
        self.has_stock_linears = any(isinstance(part, nn.Linear) for part in decoder.modules())
        self.pool = make_pool(decoder.model, cache_tokens, self.dtype)

    @torch.inference_mode()
    def forward(
        self, token_ids: Sequence[int], segments: Sequence[Segment], wanted_rows: Sequence[int]
    ) -> Tensor:
        """Run all rows, score some. Shapes: token_ids [rows] -> logits [wanted_rows, vocab].

        Writes the rows' keys and values; the logits of wanted_rows[i] are row i of the result.
        """
        batch: dict[str, Any] = {
            "input_ids": torch.tensor(token_ids, device=self.device)[None],
            "position_ids": row_positions(segments, self.device)[None],
            "use_cache": False,
            "ragged": RaggedBatch(self.pool, segments),
        }
        if not wanted_rows:  # a chunk of a longer prompt
            self.decoder.model(**batch)
            return torch.empty(0, self.vocab_size, dtype=self.dtype, device=self.device)
        # The family's own forward also does what comes after its head, such as a cap. Of a list it
        # makes an index wherever the last layer lies; a tensor would lie with the first.
        scored = self.decoder(**batch, logits_to_keep=list(wanted_rows))
        logits: Tensor = scored.logits[0]
        return logits

    @torch.inference_mode()
    def copy(self, copies: Sequence[Copy]) -> None:
        """Copy keys and values between runs, in order."""
        for copy in copies:
            self.pool.copy(copy)


def make_pool(trunk: Any, num_tokens: int, dtype: torch.dtype) -> KVPool:
    """A pool for the attention of a `transformers` model without head, beside its layers."""
    size = TokenSize.of(trunk.config.to_dict())
    devices = [next(layer.parameters()).device for layer in trunk.layers]
    return KVPool(devices, size.num_kv_heads, size.head_dim, num_tokens, dtype)


def row_positions(segments: Sequence[Segment], device: torch.device) -> Tensor:
    """Absolute positions of all rows of a pack. -> [rows] int64."""
    positions = [
        segment.first_position + depth for segment in segments for depth in segment.depths()
    ]
    return torch.tensor(positions, device=device)


def packing_keeps_bits(model: RaggedModel) -> bool:
    """Whether *row alone = row packed* holds on this host, bit for bit (design D1).

    Rows about position 128, a border of 64 positions, are computed in one long chunk, then alone on
    either side of the border, and across it in packs of 2, 4 and 8 beside another text. A model
    with a stock linear layer claims nothing: in bfloat16, say, so few rows may agree by luck.
    """
    if model.has_stock_linears:
        return False
    length, border = 134, 128
    ids = [(37 * index + 11) % model.vocab_size for index in range(length)]
    mine, other = model.pool.allocator.reserve(length), model.pool.allocator.reserve(BLOCK)
    if mine is None or other is None:
        raise ModelError(f"the load-time check needs {LEAST_TOKENS} tokens of cache")
    try:
        first = border - 4
        whole = model.forward(ids, [Segment(mine, 0, length)], range(first, length))
        model.forward(ids[:33], [Segment(other, 0, 33)], [0])
        for size in (1, 2, 4, 8):
            for start in (border - 1, border) if size == 1 else (border - size // 2,):
                neighbours = [Segment(other, 30, 3)] if size > 1 else []
                before = 3 * len(neighbours)
                logits = model.forward(
                    ids[30 : 30 + before] + ids[start : start + size],
                    [*neighbours, Segment(mine, start, size)],
                    range(before, before + size),
                )
                if not torch.equal(logits, whole[start - first : start - first + size]):
                    return False
        return True
    finally:
        for run in (mine, other):
            model.pool.allocator.release(run)
