"""Sibling linear layers of one input as one multiplication: q/k/v and gate/up.

A tiny product costs about as much to start as to compute, and int8 writes the digits of its
activations anew for each. The family's code calls its layers one by one; the first of a group
computes for all, and each later one takes its own columns if it is given the very same tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that all families apply to one input, in the order of their calls."""

MakeLinear = Callable[[nn.Linear], nn.Module]


class SharedProduct(nn.Module):
    """One linear layer whose output columns belong to several. Not thread-safe, like its model."""

    def __init__(self, linear: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self._linear = linear
        self._sizes = list(sizes)
        # Filled and emptied, never set anew: setting an attribute of a module takes microseconds.
        self._rows: list[Tensor] = []
        self._left: dict[int, Tensor] = {}

    def take(self, number: int, rows: Tensor) -> Tensor:
        """Columns of part `number`. [..., in] -> [..., out of the part], a view.

        Part 0 always computes, so a step never meets the product of another. A later part takes its
        columns once, if it is given the tensor of the last product, which must not have changed
        since, and computes otherwise. The input is held until the last part is taken.
        """
        if number == 0 or number not in self._left or rows is not self._rows[0]:
            parts = self._linear(rows).split_with_sizes(self._sizes, dim=-1)
            self._left.update(enumerate(parts))
            self._rows[:] = [rows]
        part = self._left.pop(number)
        if not self._left:
            self._rows.clear()
        return part


class FusedPart(nn.Module):
    """Stands where one of the siblings stood."""

    def __init__(self, shared: SharedProduct, number: int) -> None:
        super().__init__()
        self._shared = shared
        self._number = number

    def forward(self, rows: Tensor) -> Tensor:
        """Shapes: [..., in] -> [..., out]."""
        return self._shared.take(self._number, rows)


def fuse_siblings(module: nn.Module, make: MakeLinear) -> None:
    """Replace the stock siblings right below `module`; the originals are freed.

    make: gives the layer that multiplies for all of them.
    """
    for names in SIBLINGS:
        found = [getattr(module, name, None) for name in names]
        linears = [layer for layer in found if isinstance(layer, nn.Linear)]
        if len(linears) == len(names):
            sizes = [linear.out_features for linear in linears]
            shared = SharedProduct(make(_side_by_side(linears)), sizes)
            for number, name in enumerate(names):
                setattr(module, name, FusedPart(shared, number))


def _side_by_side(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One stock layer with the outputs of all; a bias that only some have is 0 for the others."""
    fused = nn.Linear(1, 1, bias=False)
    weights = [linear.weight.detach() for linear in linears]
    fused.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
    if any(linear.bias is not None for linear in linears):
        fused.bias = nn.Parameter(torch.cat(list(_biases(linears))), requires_grad=False)
    return fused


def _biases(linears: Sequence[nn.Linear]) -> Iterator[Tensor]:
    for linear in linears:
        missing = linear.bias is None
        yield linear.weight.new_zeros(linear.out_features) if missing else linear.bias.detach()
