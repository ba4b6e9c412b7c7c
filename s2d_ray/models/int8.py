"""Int8 weights on the CPU: a quarter of float32's bytes, and integer sums, which have no order."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

_ROUND_ALONE = 2_048
"""Up to so many numbers torch's `round` keeps to its own thread."""

_BASE = 64
_ACTIVATION_LEVELS = 63 * _BASE + 31
_ACTIVATION_ZERO = 64
_WEIGHT_LEVELS = 127
_ROUNDER = 1.5 * 2.0**23
"""Added and taken away again, it leaves a float32 below 2^22 rounded."""


class Int8Linear(nn.Module):
    """Int8 weights on the CPU, integer accumulation, one activation scale per row.

    A scale per row (never one per tensor) keeps a text independent of its neighbours in the batch.
    Activations are written in two digits of base 64, which run as two rows of one product: with one
    digit, a few large activations would leave the others too coarse. Digits of at most 64 around a
    zero point of 64 also keep the pairwise 16-bit sums of the AVX2 kernels below 2 * 127 * 127, so
    they cannot saturate and every host computes the same integers.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features = weight.shape[0]
        levels, scales = quantize_weight(weight)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*quantized tensor creation.*")
            quantized = torch._make_per_channel_quantized_tensor(
                levels, scales.double(), torch.zeros(len(scales), dtype=torch.int64), 0
            )
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._bias = None if bias is None else bias.detach().float()

    def forward(self, rows: Tensor) -> Tensor:
        """Shapes: [..., in] -> [..., out]."""
        flat = rows.reshape(-1, rows.shape[-1]).float()
        digits, scale = quantize_rows(flat)
        products = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            digits.flatten(0, 1), 1.0, _ACTIVATION_ZERO, self._packed
        )
        high, low = products.chunk(2)
        out = torch.add(low, high, alpha=_BASE).mul_(scale)
        if self._bias is not None:
            out += self._bias
        result: Tensor = out.to(rows.dtype).view(*rows.shape[:-1], self.out_features)
        return result


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 8-bit levels per output channel. [out, in] -> int8 [out, in], float32 [out]."""
    scales = weight.detach().float().abs().amax(dim=1).clamp_min(1e-12) / _WEIGHT_LEVELS
    levels = torch.round(weight.detach().float() / scales[:, None]).to(torch.int8)
    return levels, scales


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Write each row as scale * (64 * high + low) with small integers.

    Shapes: [rows, in] -> digits [2, rows, in] float32, high in [-63, 63] and low in [-32, 32];
    scale [rows, 1], which maps the row's largest magnitude to 4,063.
    """
    scale = rows.abs().amax(dim=1, keepdim=True).clamp_min_(1e-12).div_(_ACTIVATION_LEVELS)
    levels = _round(rows / scale)
    digits = rows.new_empty(2, *rows.shape)
    high, low = digits
    _round(torch.div(levels, _BASE, out=high))
    torch.sub(levels, high, alpha=_BASE, out=low)
    return digits, scale


def _round(numbers: Tensor) -> Tensor:
    """Round in place, ties to even; below 2^22 both ways give the same.

    `round` is one step instead of two, but soon wakes the other threads, at the price of a product.
    """
    if numbers.numel() <= _ROUND_ALONE:
        return numbers.round_()
    return numbers.add_(_ROUNDER).sub_(_ROUNDER)
