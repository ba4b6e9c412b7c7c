"""What stands behind the layer groups of a sorted draft, exit by exit."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import Generator, Tensor, nn


@dataclass(frozen=True)
class Exits:
    """layers: of each sub-model, rising. head_size: ids that its exit scores.

    own_heads: whether each exit has a head of its own. block_size: inner size of the exit blocks, 0
    for none.
    """

    layers: tuple[int, ...]
    head_size: int
    own_heads: bool = False
    block_size: int = 0


class ExitBlock(nn.Module):
    """A token-wise residual block before an exit's norm: x + up(silu(down(norm(x)))).

    It has no attention, so no keys and values, and a row may leave at any exit as before.
    norm: one of the family's, of which the block takes a copy.
    """

    def __init__(self, norm: nn.Module, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm)
        self.down = nn.Linear(hidden_size, inner_size, bias=False)
        self.up = nn.Linear(inner_size, hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[…, hidden] -> […, hidden]."""
        change: Tensor = self.up(nn.functional.silu(self.down(self.norm(hidden))))
        return hidden + change

    def start(self, norm: Tensor, generator: Generator) -> None:
        """Begin as the identity, able to learn. norm: weight of the norm, [hidden]."""
        for weight in self.norm.parameters():
            weight.copy_(norm)
        nn.init.normal_(self.down.weight, std=self.down.in_features**-0.5, generator=generator)
        nn.init.zeros_(self.up.weight)
