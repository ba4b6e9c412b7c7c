"""Int4 weights on the CPU: half the bytes of int8, for a draft whose step is bound by memory.

Only weights are quantised, in blocks of inputs; activations are multiplied in bfloat16. Many rows,
a prompt, are bound by arithmetic instead, where bfloat16 is faster on a CPU with matrix tiles (AMX)
and int8 on any other, so a layer has its weights twice. A row's bits thus depend on its neighbours:
this is for guesses, which change no text, and never for a target.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2d_ray.models.int8 import Int8Linear

FEW_ROWS = 8
"""Up to so many rows int4 is the fastest."""

BLOCK = 32
"""Inputs that share a scale and an offset, as in the block formats of GGUF."""

_LEVELS = 15
_MIDDLE = 8
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Parts of a block's range that are tried: to clip its ends often costs less than coarser steps."""

_OUTPUTS = 16
"""Outputs that the kernel computes together; it takes no other number of them."""

_ROWS_HINT = 256


class Bfloat16Linear(nn.Module):
    """Weights and activations in bfloat16, packed once for oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        rounded = weight.detach().to(torch.bfloat16)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(rounded, _ROWS_HINT)
        self._bias = None if bias is None else bias.detach().to(torch.bfloat16)

    def forward(self, rows: Tensor) -> Tensor:
        """Shapes: [..., in] -> [..., out]."""
        short = rows.to(torch.bfloat16)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            short, self._weight, self._bias, "none", [], ""
        )
        return out.to(rows.dtype)


class Int4Linear(nn.Module):
    """Linear layer with 16 levels per block of 32 inputs, each with its scale and its offset."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._many_rows = _many_rows(weight, bias)
        levels, scales, offsets = quantize_blocks(weight)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        # The kernel reads level q as (q - 8) * scale + offset. [blocks, out, 2]
        self._scales = torch.stack([scales, offsets], dim=-1).transpose(0, 1).contiguous()
        self._bias = None if bias is None else bias.detach().float()

    def forward(self, rows: Tensor) -> Tensor:
        """Shapes: [..., in] -> [..., out]."""
        flat = rows.reshape(-1, rows.shape[-1])
        if flat.shape[0] > FEW_ROWS:
            many: Tensor = self._many_rows(rows)
            return many
        flat = flat.to(torch.bfloat16)
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self._packed, BLOCK, self._scales)
        out = out.to(rows.dtype).view(*rows.shape[:-1], -1)
        if self._bias is not None:
            out += self._bias
        result: Tensor = out
        return result


def _many_rows(weight: Tensor, bias: Tensor | None) -> nn.Module:
    has_tiles = torch.cpu._is_amx_tile_supported() and torch.backends.mkldnn.is_available()
    return (Bfloat16Linear if has_tiles else Int8Linear)(weight, bias)


def fits(weight: Tensor) -> bool:
    """Whether the kernel takes a matrix of this shape. [out, in]"""
    outputs, inputs = weight.shape
    return inputs % BLOCK == 0 and outputs % _OUTPUTS == 0


def quantize_blocks(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of some ranges of each block, the one with the least squared error.

    Shapes: [out, in] -> levels int32 [out, in] in 0 … 15; scales, offsets bfloat16 [out, blocks].
    """
    blocks = weight.detach().float().unflatten(1, (-1, BLOCK))
    tried = [_levels(blocks, shrink) for shrink in _SHRINKS]
    errors = torch.stack([(_read(*each) - blocks).square().sum(-1) for each in tried])
    best = errors.argmin(dim=0, keepdim=True)
    levels, scales, offsets = (
        torch.stack(parts).take_along_dim(best[..., None], dim=0)[0]
        for parts in zip(*tried, strict=True)
    )
    return levels.flatten(1).to(torch.int32), scales[..., 0], offsets[..., 0]


def _levels(blocks: Tensor, shrink: float) -> tuple[Tensor, Tensor, Tensor]:
    """Levels over a part of each block's range; scales are rounded first. All [out, blocks, …]."""
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    middle, reach = (low + high) / 2, (high - low) / 2 * shrink
    scale = (2 * reach / _LEVELS).clamp_min(1e-12).to(torch.bfloat16)
    offset = (middle - reach + _MIDDLE * scale).to(torch.bfloat16)
    levels = torch.round((blocks - offset) / scale + _MIDDLE).clamp(0, _LEVELS)
    return levels, scale, offset


def _read(levels: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    return (levels - _MIDDLE) * scale.float() + offset.float()
