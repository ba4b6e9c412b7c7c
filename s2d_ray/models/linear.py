"""The linear seam: one class per way of multiplying, chosen once at load by precision and size.

`PackedLinear` gives a row the same bits whatever rows lie beside it, on any number of threads;
`Int8Linear` too. The stock `nn.Linear` is the portable version and promises nothing about bits.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

from s2d_ray.models.fused import fuse_siblings

LinearKind = Literal["packed", "int8", "portable"]

INT8_FROM = 250_000
"""Weights of a layer from which int8 gains; a smaller one costs more to start than it saves."""

_ROUND_ALONE = 2_048
"""Up to so many numbers torch's `round` keeps to its own thread."""

_ROWS_HINT = 8
_BASE = 64
_ACTIVATION_LEVELS = 63 * _BASE + 31
_ACTIVATION_ZERO = 64
_WEIGHT_LEVELS = 127
_ROUNDER = 1.5 * 2.0**23
"""Added and taken away again, it leaves a float32 below 2^22 rounded."""


class PackedLinear(nn.Module):
    """Float32 linear layer on the CPU through weights packed once for oneDNN."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features = weight.shape[0]
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS_HINT)
        self._bias = None if bias is None else bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        """Shapes: [..., in] -> [..., out]."""
        flat = rows.reshape(-1, rows.shape[-1])
        # A lone row would take oneDNN's matrix-vector kernel, which sums in another order.
        packed = flat.expand(2, -1).contiguous() if flat.shape[0] == 1 else flat
        out = torch.ops.mkldnn._linear_pointwise(packed, self._weight, self._bias, "none", [], "")
        result: Tensor = out[: flat.shape[0]].view(*rows.shape[:-1], self.out_features)
        return result


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


def make_linear(linear: nn.Linear, kind: LinearKind) -> nn.Module:
    """The layer of `kind` with the weights of `linear`."""
    if kind == "packed":
        return PackedLinear(linear.weight, linear.bias)
    if kind == "int8":
        return Int8Linear(linear.weight, linear.bias)
    return linear


def suited(linear: nn.Linear, kind: LinearKind) -> LinearKind:
    """`kind`, but packed float32 instead of int8 for a layer with fewer weights than INT8_FROM."""
    small = linear.weight.numel() < INT8_FROM
    packs = torch.backends.mkldnn.is_available()
    return "packed" if kind == "int8" and small and packs else kind


def replace_linears(module: nn.Module, kind: LinearKind) -> None:
    """Replace every `nn.Linear` below `module` in place; each original is freed at once.

    Siblings of one input share a product, unless they stay stock. int8 is for layers that are large
    enough, by what they are then.
    """
    if kind != "portable":
        fuse_siblings(module, lambda linear: make_linear(linear, suited(linear, kind)))
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, make_linear(child, suited(child, kind)))
        else:
            replace_linears(child, kind)
