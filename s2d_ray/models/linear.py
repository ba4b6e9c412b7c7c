"""The linear seam: one class per way of multiplying, chosen once at load.

`PackedLinear` gives a row the same bits whatever rows lie beside it, on any number of threads;
`Int8Linear` too. The stock `nn.Linear` is the portable version and promises nothing about bits.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn

LinearKind = Literal["packed", "int8", "portable"]

_ROWS_HINT = 8
_ACTIVATION_LEVELS = 127
_ACTIVATION_ZERO = 128
_WEIGHT_LEVELS = 63


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
    """Int8 weights and activations on the CPU, integer accumulation, one scale per row.

    Activations are unsigned 8-bit around 128, weights signed 7-bit per output channel: the
    pairwise 16-bit sums of the AVX2 kernels then stay below 2 * 255 * 63 = 32,130 and cannot
    saturate, so every host computes the same integers. A scale per row (never one per tensor)
    keeps a text independent of its neighbours in the batch.
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
        scale = activation_scale(flat)
        out = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            torch.round(flat / scale), 1.0, _ACTIVATION_ZERO, self._packed
        )
        out = out * scale
        if self._bias is not None:
            out = out + self._bias
        result: Tensor = out.to(rows.dtype).view(*rows.shape[:-1], self.out_features)
        return result


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 7-bit levels per output channel. [out, in] -> int8 [out, in], float32 [out]."""
    scales = weight.detach().float().abs().amax(dim=1).clamp_min(1e-12) / _WEIGHT_LEVELS
    levels = torch.round(weight.detach().float() / scales[:, None]).to(torch.int8)
    return levels, scales


def activation_scale(rows: Tensor) -> Tensor:
    """The step that maps a row's largest magnitude to 127. Shapes: [rows, in] -> [rows, 1]."""
    return rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / _ACTIVATION_LEVELS


def make_linear(linear: nn.Linear, kind: LinearKind) -> nn.Module:
    """The layer of `kind` with the weights of `linear`."""
    if kind == "packed":
        return PackedLinear(linear.weight, linear.bias)
    if kind == "int8":
        return Int8Linear(linear.weight, linear.bias)
    return linear


def replace_linears(module: nn.Module, kind: LinearKind) -> None:
    """Replace every `nn.Linear` below `module` in place; each original is freed at once."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, make_linear(child, kind))
        else:
            replace_linears(child, kind)
