"""Coupling: target and draft draw with the same noise, so a guess can simply be compared.

A token is drawn as argmax_v(logits[v] + T * g(seed, position, v)) with Gumbel noise g that is a
pure function of three integers. The target's token is its own sample; the draft only guesses it. So
the text depends on the target and the seed alone, never on the draft, plan, load or a fault.

Source: Daliri, Musco, Suresh, "Coupling without communication and drafter-invariant speculative
decoding", arXiv 2408.07978. Hash: the finaliser of splitmix64 (Steele, Lea, Flood, 2014), applied
to the seed, then to the position, then to the token id.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from s2d_ray.core.hashing import GOLDEN, MIX_1, MIX_2, position_key
from s2d_ray.core.places import places

MIN_NOISE, MAX_NOISE = -3.14, 22.88
"""Bounds of all noise, since hashes have 32 bits."""

LIKELY = 4.0
"""Ids less than so many temperatures below the best logit get their noise first."""

_WORTH_PICKING = 8
"""Ids are picked by their logits where at most one in so many is left."""


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fold(value: Tensor, bits: int, scratch: Tensor) -> Tensor:
    """value ^= value >> bits, in place; torch shifts int64 arithmetically, so sign bits are cut."""
    torch.bitwise_right_shift(value, bits, out=scratch)
    return value.bitwise_xor_(scratch.bitwise_and_((1 << (64 - bits)) - 1))


def _hashes(seed: int, position: int, token_ids: Tensor) -> Tensor:
    """32-bit hashes of some tokens at one position. [ids] int64 -> [ids] int64."""
    value = (token_ids * _signed(GOLDEN)).add_(_signed(position_key(seed, position)))
    scratch = torch.empty_like(value)
    _fold(value, 30, scratch).mul_(_signed(MIX_1))
    _fold(value, 27, scratch).mul_(_signed(MIX_2))
    return _fold(value, 31, scratch).bitwise_right_shift_(32).bitwise_and_((1 << 32) - 1)


def _gumbel(hashes: Tensor) -> Tensor:
    """Standard Gumbel noise, the smaller the larger the hash. [ids] int64 -> [ids] float32."""
    minus_uniform = hashes.double().add_(0.5).mul_(-(2.0**-32))
    return minus_uniform.log1p_().neg_().log_().neg_().float()


def gumbel_noise(seed: int, position: int, token_ids: Tensor) -> Tensor:
    """Standard Gumbel noise of some tokens at one position.

    Shapes: token_ids [ids] int64, full-vocabulary ids (also under a trimmed head) -> [ids] float32.
    The uniform has 32 bits and is computed in float64: in float32 it would round to 1 once in 2^25
    draws, become +inf, and let an arbitrary token win.
    """
    return _gumbel(_hashes(seed, position, token_ids))


def perturbed_scores(
    logits: Tensor, temperature: float, seed: int, position: int, token_ids: Tensor
) -> Tensor:
    """logits + T * noise: the scores whose argmax is the draw.

    Shapes: logits [ids], token_ids [ids] -> [ids] in the dtype of the logits.
    """
    if temperature == 0.0:
        return logits
    return logits + temperature * gumbel_noise(seed, position, token_ids).to(logits.dtype)


def draw_token(
    scores: Tensor, temperature: float, seed: int, position: int, token_ids: Tensor | None = None
) -> Tensor:
    """Draw one of some tokens; ties go to the lowest id.

    Shapes: scores [ids], token_ids [ids] rising, None for the whole vocabulary -> scalar int64.
    """
    if temperature > 0.0:
        if token_ids is None:
            token_ids = _rivals(scores, temperature, seed, position)
            scores = scores[token_ids]
        scores = perturbed_scores(scores, temperature, seed, position, token_ids)
    best = torch.argmax(scores)
    return best if token_ids is None else token_ids[best]


def _rivals(logits: Tensor, temperature: float, seed: int, position: int) -> Tensor:
    """Ids that can still win, from a whole vocabulary. [vocab] -> [ids], rising.

    The likely ones' noise gives a score to beat. Any other id lies LIKELY * T or more below the
    best logit, so only noise above a bound lets it win, and hashes tell that without a logarithm.
    """
    best = logits.max()
    is_likely = logits >= best - LIKELY * temperature
    likely = places(is_likely)
    lead = perturbed_scores(logits[likely], temperature, seed, position, likely).max()
    score, goal = float(best), float(lead)
    # What rounding can add to a score, generously, as noise.
    slack = 8 * torch.finfo(logits.dtype).eps * (abs(score) + abs(goal)) / temperature + 1e-4
    in_reach = places(logits >= goal - temperature * (MAX_NOISE + slack))
    if len(in_reach) < len(logits) // _WORTH_PICKING:
        return in_reach
    ids = torch.arange(len(logits), device=logits.device)
    least_noise = (goal - score) / temperature + LIKELY - slack
    if not least_noise > MIN_NOISE:
        return ids
    most = -math.expm1(-math.exp(-least_noise)) * 2.0**32
    can_win = _hashes(seed, position, ids) <= math.ceil(most)
    return places(can_win.logical_or_(is_likely))
