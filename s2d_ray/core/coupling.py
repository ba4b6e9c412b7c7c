"""Coupling: target and draft draw with the same noise, so a guess can simply be compared.

A token is drawn as argmax_v(logits[v] + T * g(seed, position, v)) with Gumbel noise g that is a
pure function of three integers. The target's token is its own sample; the draft only guesses it. So
the text depends on the target and the seed alone, never on the draft, plan, load or a fault.

Source: Daliri, Musco, Suresh, "Coupling without communication and drafter-invariant speculative
decoding", arXiv 2408.07978. Hash: the finaliser of splitmix64 (Steele, Lea, Flood, 2014), applied
to the seed, then to the position, then to the token id.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s2d_ray.core.hashing import GOLDEN, MIX_1, MIX_2, position_key

NOISE_SPREAD = 27.0
"""Upper bound of max g - min g: with 32-bit hashes g lies in (-3.14, 22.88)."""


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch shifts int64 arithmetically, so the copied sign bits are cut."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def gumbel_noise(seed: int, position: int, token_ids: Tensor) -> Tensor:
    """Standard Gumbel noise of some tokens at one position.

    Shapes: token_ids [ids] int64, full-vocabulary ids (also under a trimmed head) -> [ids] float32.
    The uniform has 32 bits and is computed in float64: in float32 it would round to 1 once in 2^25
    draws, become +inf, and let an arbitrary token win.
    """
    value = token_ids * _signed(GOLDEN) + _signed(position_key(seed, position))
    value = (value ^ _shift(value, 30)) * _signed(MIX_1)
    value = (value ^ _shift(value, 27)) * _signed(MIX_2)
    high = _shift(value ^ _shift(value, 31), 32)
    uniform = (high.double() + 0.5) * 2.0**-32
    return (-torch.log(-torch.log1p(-uniform))).float()


def perturbed_scores(
    logits: Tensor, temperature: float, seed: int, position: int, token_ids: Tensor
) -> Tensor:
    """logits + T * noise: the scores whose argmax is the draw.

    Shapes: logits [ids], token_ids [ids] -> [ids] in the dtype of the logits.
    """
    if temperature == 0.0:
        return logits
    return logits + temperature * gumbel_noise(seed, position, token_ids).to(logits.dtype)


def draw_token(logits: Tensor, temperature: float, seed: int, position: int) -> Tensor:
    """Draw one token of the full vocabulary; ties go to the lowest id.

    Shapes: logits [vocab] -> scalar int64. Noise is computed only for ids that can still win: an id
    more than T * NOISE_SPREAD below the best logit loses whatever its noise is.
    """
    if temperature == 0.0:
        return torch.argmax(logits)
    candidates = torch.nonzero(logits >= logits.max() - temperature * NOISE_SPREAD).squeeze(1)
    scores = perturbed_scores(logits[candidates], temperature, seed, position, candidates)
    return candidates[torch.argmax(scores)]
