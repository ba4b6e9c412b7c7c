"""Logits processors: what the target may draw from. Only the target applies them.

What may be drawn, and its scores, are a function of one row of logits and of the text before it
alone; coupling then keeps every processor exact. The order is that of the field: penalties, bias,
bans, then top-k, top-p and min-p at the row's temperature. These three leave few ids, so that
noise is computed for those alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2d_ray.core.params import SamplingParams
from s2d_ray.core.places import places


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


@dataclass(frozen=True)
class Candidates:
    """What a token is drawn from: scores [n], of the ids [n], rising; None for all of them."""

    scores: Tensor
    ids: Tensor | None = None

    def keep(self, kept: Tensor) -> Candidates:
        """Some of them. kept: their places here, rising."""
        return Candidates(self.scores[kept], kept if self.ids is None else self.ids[kept])

    def without(self, token: Tensor) -> Candidates:
        """All but one token. Shapes: scalar int64."""
        if self.ids is None:
            return Candidates(self.scores.index_fill(0, token, -torch.inf))
        return Candidates(self.scores.masked_fill(self.ids == token, -torch.inf), self.ids)


def process_logits(logits: Tensor, params: SamplingParams, past: Past) -> Candidates:
    """What one row's token is drawn from. Shapes: logits [vocab]."""
    if params.penalises:
        logits = penalise(logits, params, past)
    if params.logit_bias:
        ids, addends = zip(*params.logit_bias, strict=True)
        logits = logits.index_add(0, _ids(ids, logits), logits.new_tensor(addends))
    logits = ban(logits, past)
    candidates = Candidates(logits)
    if params.temperature == 0.0:
        return candidates  # the best id survives all that follows
    if 0 < params.top_k < len(logits):
        candidates = candidates.keep(keep_top_k(candidates.scores, params.top_k))
    if params.top_p < 1.0:
        kept = keep_top_p(candidates.scores, params.temperature, params.top_p)
        candidates = candidates.keep(kept)
    if params.min_p > 0.0:
        kept = keep_min_p(candidates.scores, params.temperature, params.min_p)
        candidates = candidates.keep(kept)
    return candidates


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


def keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    """Places of the k best scores, rising; those that tie with the k-th stay. [n] -> [kept]."""
    kth_best = torch.topk(scores, top_k).values[-1]
    return places(scores >= kth_best)


def keep_top_p(scores: Tensor, temperature: float, top_p: float) -> Tensor:
    """Places, rising, of the smallest set of likeliest scores whose probability reaches `top_p`.

    Shapes: [n] -> [kept]. Probabilities are those at `temperature`; the one that crosses `top_p`
    stays, and so does the best one whatever `top_p` is.
    """
    # Relative to the best score, a tiny temperature gives -inf and 0, never inf and NaN.
    probabilities = torch.softmax((scores - scores.max()).div_(temperature), dim=-1)
    # All below the floor are half as likely as what may be left out, so the rest nearly always
    # tells; it holds every one that is as likely as its last.
    floor = (1.0 - top_p) / 2.0 / len(scores)
    likely = places(probabilities >= floor)
    kept = _nucleus(probabilities[likely], top_p)
    if len(kept) == len(likely) < len(scores):
        return _nucleus(probabilities, top_p).sort().values
    return likely[kept.sort().values]


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Places, best first, of the smallest set that reaches `top_p`, or of all if none does."""
    # Equal ones stay in the order of their places.
    ordered, best_first = torch.sort(probabilities, descending=True, stable=True)
    mass_before = torch.cumsum(ordered, dim=-1) - ordered
    is_kept = mass_before < top_p
    is_kept[:1] = True
    return best_first[is_kept]


def keep_min_p(scores: Tensor, temperature: float, min_p: float) -> Tensor:
    """Places, rising, of scores not less than `min_p` times as likely as the best. [n] -> [kept].

    Source: Nguyen et al., arXiv 2407.01082. Probabilities are those at `temperature`.
    """
    floor = scores.max() + temperature * math.log(min_p)
    return places(scores >= floor)


def _ids(ids: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=like.device)
