"""Logits processors: what the target may draw from. Only the target applies them.

A processor maps one row of logits to one row of logits. It is a function of the row and of the
text before it alone; coupling then keeps every processor exact. The order is that of the field:
penalties, bias, bans, then top-k, top-p and min-p at the row's temperature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2d_ray.core.params import SamplingParams

_FEW = 512
"""Likeliest ids that are sorted before all are."""


@dataclass(frozen=True)
class Past:
    """What a row knows of the text before it, beside its logits.

    prompt_ids, output_ids: only for rows with penalties; in a proposal the output includes the
        row's ancestors and the row itself. banned: ids that must not come now.
    allowed: [vocab] bool, what a grammar permits, None for everything.
    """

    prompt_ids: Sequence[int] = ()
    output_ids: Sequence[int] = ()
    banned: Sequence[int] = ()
    allowed: Tensor | None = None


def process_logits(logits: Tensor, params: SamplingParams, past: Past) -> Tensor:
    """The scores a token is drawn from. Shapes: [vocab] -> [vocab]."""
    if params.penalises:
        logits = penalise(logits, params, past)
    if params.logit_bias:
        ids, addends = zip(*params.logit_bias, strict=True)
        logits = logits.index_add(0, _ids(ids, logits), logits.new_tensor(addends))
    logits = ban(logits, past)
    if params.temperature == 0.0:
        return logits  # the best id survives all that follows
    logits = keep_top_k(logits, params.top_k)
    logits = keep_top_p(logits, params.temperature, params.top_p)
    return keep_min_p(logits, params.temperature, params.min_p)


def penalise(logits: Tensor, params: SamplingParams, past: Past) -> Tensor:
    """Repetition, frequency and presence penalties. Shapes: [vocab] -> [vocab].

    Repetition (Keskar et al., arXiv 1909.05858) divides positive and multiplies negative scores of
    ids in prompt or output; the other two subtract, per occurrence and once, for ids of the output.
    """
    out = logits.clone()
    if params.repetition_penalty != 1.0:
        seen = _ids([*past.prompt_ids, *past.output_ids], logits).unique()
        scores = out[seen]
        factor = params.repetition_penalty
        out[seen] = torch.where(scores > 0, scores / factor, scores * factor)
    if past.output_ids:
        ids, counts = _ids(past.output_ids, logits).unique(return_counts=True)
        out[ids] -= params.frequency_penalty * counts + params.presence_penalty
    return out


def ban(logits: Tensor, past: Past) -> Tensor:
    """-inf for what must not come. A grammar outranks `banned` where both would leave nothing."""
    if past.allowed is not None:
        logits = logits.masked_fill(~past.allowed, -torch.inf)
    if past.banned:
        left = logits.index_fill(0, _ids(past.banned, logits), -torch.inf)
        if past.allowed is None or bool(torch.isfinite(left).any()):
            return left
    return logits


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
    for count in (_FEW, len(probabilities)):
        kept = _nucleus(probabilities, top_p, min(count, len(probabilities)))
        if kept is not None:
            break
    assert kept is not None
    out = torch.full_like(logits, -torch.inf)
    out[kept] = logits[kept]
    return out


def _nucleus(probabilities: Tensor, top_p: float, count: int) -> Tensor | None:
    """Ids of the smallest set that reaches `top_p`, None if the `count` best do not tell.

    They do not if it may be larger, or may end among ids as likely as the last of them.
    """
    ids = torch.arange(len(probabilities), device=probabilities.device)
    if count < len(probabilities):
        ids = torch.topk(probabilities, count, sorted=False).indices.sort().values
    # Equal ones stay in the order of their ids.
    ordered, order = torch.sort(probabilities[ids], descending=True, stable=True)
    mass_before = torch.cumsum(ordered, dim=-1) - ordered
    is_kept = mass_before < top_p
    is_kept[0] = True
    if count < len(probabilities) and bool((is_kept & (ordered == ordered[-1])).any()):
        return None
    return ids[order[is_kept]]


def keep_min_p(logits: Tensor, temperature: float, min_p: float) -> Tensor:
    """Ban ids less than `min_p` times as likely as the best one. Shapes: [vocab] -> [vocab].

    Source: Nguyen et al., arXiv 2407.01082. Probabilities are those at `temperature`.
    """
    if min_p <= 0.0 or temperature == 0.0:
        return logits
    floor = logits.max() + temperature * math.log(min_p)
    return logits.masked_fill(logits < floor, -torch.inf)


def _ids(ids: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=like.device)
