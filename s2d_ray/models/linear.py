"""The linear seam: one class per way of multiplying, chosen once at load by precision and size.

`PackedLinear` gives a row the same bits whatever rows lie beside it, on any number of threads;
`Int8Linear` too. `Int4Linear`, for drafts, and the stock `nn.Linear`, the portable version, promise
nothing about bits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from s2d_ray.models.fused import fuse_siblings
from s2d_ray.models.int4 import Int4Linear, fits
from s2d_ray.models.int8 import Int8Linear

LinearKind = Literal["packed", "int8", "int4", "portable"]

INT8_FROM = 250_000
"""Weights of a layer from which int8 and int4 gain; a smaller one starts too slowly."""

_ROWS_HINT = 8


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


def make_linear(linear: nn.Linear, kind: LinearKind) -> nn.Module:
    """The layer of `kind` with the weights of `linear`."""
    if kind == "packed":
        return PackedLinear(linear.weight, linear.bias)
    if kind == "int8":
        return Int8Linear(linear.weight, linear.bias)
    if kind == "int4":
        return Int4Linear(linear.weight, linear.bias)
    return linear


def suited(linear: nn.Linear, kind: LinearKind) -> LinearKind:
    """`kind`, or what serves this layer better.

    Packed float32 for one with fewer weights than INT8_FROM; int8 for a shape that int4 does not
    take.
    """
    if kind not in ("int8", "int4"):
        return kind
    if linear.weight.numel() < INT8_FROM and torch.backends.mkldnn.is_available():
        return "packed"
    return kind if kind == "int8" or fits(linear.weight) else "int8"


def replace_linears(module: nn.Module, kind: LinearKind) -> None:
    """Replace every `nn.Linear` below `module` in place; each original is freed at once.

    Siblings of one input share a product, unless they stay stock. int8 and int4 are for layers that
    are large enough, by what they are then.
    """
    if kind != "portable":
        fuse_siblings(module, lambda linear: make_linear(linear, suited(linear, kind)))
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, make_linear(child, suited(child, kind)))
        else:
            replace_linears(child, kind)
