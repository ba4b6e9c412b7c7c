"""How often a target would accept an exit's guesses, by running the coupling itself.

At temperature T both sides take argmax(logits + T · g) with the same noise g. The coupling accepts
with at least (1 − TV) / (1 + TV), TV being the total variation between both laws; no scheme that
drafts one token can do better than 1 − TV. Source: Daliri, Musco, Suresh, arXiv 2408.07978.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2d_ray.core.coupling import draw_token, perturbed_scores

NUM_BINS = 10


@dataclass(frozen=True)
class Coupled:
    """The guesses of one exit behind each token of one text.

    accepted, confidence: [positions, draws] in float32; confidence is what the engine calls so, the
    largest softmax value of the perturbed scores. optimum: [positions], 1 − TV.
    """

    accepted: Tensor
    confidence: Tensor
    optimum: Tensor


@dataclass(frozen=True)
class Bin:
    """Guesses of like confidence: how many, how confident on average, and how many accepted."""

    count: int
    confidence: float
    accepted: float


def draw_targets(logits: Tensor, temperature: float, seeds: Sequence[int], first: int) -> Tensor:
    """The target's own tokens, for each seed. first: position of the first row's token.

    Shapes: [positions, vocab] -> [positions, draws] int64.
    """
    rows = [
        torch.stack([draw_token(row, temperature, seed, position) for seed in seeds])
        for position, row in enumerate(logits, first)
    ]
    return torch.stack(rows)


def couple(
    draft: Tensor,
    head_ids: Tensor,
    target: Tensor,
    drawn: Tensor,
    temperature: float,
    seeds: Sequence[int],
    first: int,
) -> Coupled:
    """Guess each position of a text behind the target's own tokens.

    Shapes: draft [positions, head_size], head_ids [head_size], target [positions, vocab], drawn as
    `draw_targets` gives them.
    """
    accepted, confidence = [], []
    for place, row in enumerate(draft):
        for number, seed in enumerate(seeds):
            scores = perturbed_scores(row, temperature, seed, first + place, head_ids)
            best = torch.argmax(scores)
            accepted.append(head_ids[best] == drawn[place, number])
            confidence.append(torch.softmax(scores, dim=-1)[best])
    shape = (len(draft), len(seeds))
    return Coupled(
        torch.stack(accepted).view(shape).float(),
        torch.stack(confidence).view(shape).float(),
        overlap(draft, head_ids, target, temperature),
    )


def overlap(draft: Tensor, head_ids: Tensor, target: Tensor, temperature: float) -> Tensor:
    """1 − TV of the two laws at a temperature, position by position. -> [positions]

    At temperature 0 a law is its likeliest token.
    """
    if temperature == 0:
        return (head_ids[draft.argmax(-1)] == target.argmax(-1)).float()
    guess = torch.softmax(draft / temperature, dim=-1)
    truth = torch.softmax(target / temperature, dim=-1)[:, head_ids]
    return torch.minimum(guess, truth).sum(-1).float()


def accepted_length(texts: Sequence[Tensor], depth: int) -> float:
    """Mean accepted length of chains of `depth` guesses, the target's own token included.

    texts: P(accept) at each position, [positions]. Chains may begin behind any token that has
    `depth` more; a chain ends at its first refusal. Between positions the noise is independent.
    """
    lengths = []
    for chance in texts:
        if len(chance) >= depth:
            chains = chance.unfold(0, depth, 1).cumprod(dim=1)
            lengths.append(chains.sum(dim=1))
    return 1.0 + float(torch.cat(lengths).mean()) if lengths else 1.0


def reliability(confidence: Tensor, accepted: Tensor) -> list[Bin]:
    """Guesses in ten bins of equal width by confidence, empty ones left out."""
    place = (confidence * NUM_BINS).long().clamp(0, NUM_BINS - 1)
    return [
        Bin(int(own.sum()), float(confidence[own].mean()), float(accepted[own].mean()))
        for own in (place == number for number in range(NUM_BINS))
        if own.any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean distance of confidence and acceptance over guesses."""
    total = sum(bin_.count for bin_ in bins)
    return sum(bin_.count * abs(bin_.confidence - bin_.accepted) for bin_ in bins) / total
