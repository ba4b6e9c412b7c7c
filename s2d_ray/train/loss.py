"""What the exits are taught: the target's words, and what it thought of all others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2d_ray.models.sorted_draft import SortedDraft
from s2d_ray.train.batches import OUTSIDE, Batch
from s2d_ray.train.kinds import Arithmetic


@dataclass(frozen=True)
class Sums:
    """Sums over output positions at one exit, for means over any number of batches.

    agreed: positions where the exit's best token is the target's. overlap: Σ_v min(target, exit)
    over the stored tokens, a lower bound of 1 − their total variation.
    """

    loss: float = 0.0
    agreed: float = 0.0
    overlap: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.loss + other.loss, self.agreed + other.agreed, self.overlap + other.overlap
        )


def exit_loss(logits: Tensor, batch: Batch, distill: float) -> Tensor:
    """Sum over positions of distill · soft + (1 − distill) · hard cross-entropy.

    Shapes: logits [outputs, head_size] -> scalar. Both are cross-entropies against a law over the
    head: the stored probabilities, or the written token alone. What a law has outside the stored
    tokens or outside the head is left out, not spread over the rest: a position weighs as much as
    the exit could be right about.
    """
    total = torch.logsumexp(logits, dim=-1, keepdim=True)
    loss = logits.new_zeros(())
    if distill > 0:
        inside = (batch.top_rows != OUTSIDE) * batch.top_probs
        scores = logits.gather(1, batch.top_rows.clamp(min=0)) - total
        loss = loss - distill * (inside * scores).sum()
    if distill < 1:
        known = batch.labels != OUTSIDE
        scores = logits.gather(1, batch.labels.clamp(min=0)[:, None]) - total
        loss = loss - (1 - distill) * (known * scores[:, 0]).sum()
    return loss


@torch.no_grad()
def measure(logits: Tensor, batch: Batch, distill: float) -> Sums:
    """The sums of one exit over one batch. [outputs, head_size]"""
    inside = (batch.top_rows != OUTSIDE) * batch.top_probs
    probs = torch.softmax(logits, dim=-1).gather(1, batch.top_rows.clamp(min=0))
    return Sums(
        float(exit_loss(logits, batch, distill)),
        float((logits.argmax(dim=-1) == batch.top_rows[:, 0]).sum()),
        float(torch.minimum(inside, probs).sum()),
    )


class Trainee(nn.Module):
    """A sorted draft that returns its loss, so that wrappers of a module can train it.

    exit_weights: one per exit, not all 0; exits of weight 0 are not computed.
    """

    def __init__(
        self,
        draft: SortedDraft,
        exit_weights: tuple[float, ...],
        distill: float,
        arithmetic: Arithmetic = Arithmetic.FLOAT32,
    ) -> None:
        super().__init__()
        self._arithmetic = arithmetic
        self.draft = draft
        self._distill = distill
        whole = sum(exit_weights)
        self.weights = {
            exit_: weight / whole for exit_, weight in enumerate(exit_weights) if weight > 0
        }

    def forward(self, batch: Batch) -> Tensor:
        """The weighted mean over exits of the loss summed over positions. -> scalar"""
        losses = [
            self.weights[exit_] * exit_loss(logits, batch, self._distill)
            for exit_, logits in self.logits(batch).items()
        ]
        return torch.stack(losses).sum()

    def logits(self, batch: Batch) -> dict[int, Tensor]:
        """Scores of each weighted exit behind the batch's rows. -> [outputs, head_size] each"""
        rounded = self._arithmetic is Arithmetic.BFLOAT16
        with torch.autocast(batch.token_ids.device.type, torch.bfloat16, enabled=rounded):
            hidden = self.draft.hidden_at_exits(batch.token_ids, max(self.weights) + 1)
            scores = {
                exit_: self.draft.exit_logits(
                    exit_, hidden[exit_].flatten(0, 1).index_select(0, batch.rows)
                )
                for exit_ in self.weights
            }
        return {exit_: logits.float() for exit_, logits in scores.items()}
