"""Logits processors: what the target may draw from. Only the target applies them.

A processor maps one row of logits to one row of logits with some ids set to -inf. It must be a
function of the row and the committed text alone; then coupling keeps every processor exact.
"""

from __future__ import annotations

import torch
from torch import Tensor


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Ban all but the k best ids; ids that tie with the k-th stay. Shapes: [vocab] -> [vocab]."""
    if top_k <= 0 or top_k >= logits.shape[-1]:
        return logits
    kth_best = torch.topk(logits, top_k).values[-1]
    return logits.masked_fill(logits < kth_best, -torch.inf)


def keep_top_p(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Ban all but the smallest set of likeliest ids whose probability reaches `top_p`.

    Shapes: [vocab] -> [vocab]. Probabilities are those at `temperature`; the id that crosses
    `top_p` stays, and so does the best id whatever `top_p` is.
    """
    if top_p >= 1.0 or temperature == 0.0:
        return logits
    # Relative to the best logit, a tiny temperature gives -inf and 0, never inf and NaN.
    probabilities = torch.softmax((logits - logits.max()) / temperature, dim=-1)
    ordered, order = torch.sort(probabilities, descending=True, stable=True)
    mass_before = torch.cumsum(ordered, dim=-1) - ordered
    banned = order[mass_before >= top_p]
    return logits.index_fill(0, banned[banned != order[0]], -torch.inf)


def process_logits(logits: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Apply top-k, then top-p, in the order `transformers` applies them. [vocab] -> [vocab]."""
    if temperature == 0.0:
        return logits  # the best id survives both
    return keep_top_p(keep_top_k(logits, top_k), temperature, top_p)
