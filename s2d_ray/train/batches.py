"""Which texts a training step sees: a pure function of seed and step, so nothing is to be resumed.

Texts of like length share a micro-batch, padded behind their ends: attention is causal, so no token
sees the padding, no mask is needed, and little is computed in vain.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from s2d_ray.train.corpus_files import Answer

WINDOW = 16
"""Micro-batches whose texts are sorted by length together."""

OUTSIDE = -1
"""Head row of an id that the head does not score."""


@dataclass(frozen=True)
class Batch:
    """Texts of one micro-batch, and what the target thought behind each of their rows.

    token_ids: [texts, length]. rows: [outputs], places in the flattened [texts · length] behind
    which an output token is drawn. labels: [outputs], head rows of the written tokens, or OUTSIDE.
    top_rows: [outputs, top], head rows of the target's likeliest tokens; top_probs: their
    probabilities at temperature 1.
    """

    token_ids: Tensor
    rows: Tensor
    labels: Tensor
    top_rows: Tensor
    top_probs: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class HeadRows:
    """Full-vocabulary ids to rows of a trimmed head."""

    def __init__(self, head_ids: Sequence[int], vocab_size: int) -> None:
        self._row = np.full(vocab_size, OUTSIDE, np.int64)
        self._row[list(head_ids)] = np.arange(len(head_ids))

    def of(self, ids: np.ndarray) -> Tensor:
        """Head rows of ids, OUTSIDE where there is none; any shape."""
        return torch.from_numpy(self._row[ids])


def collate(answers: Sequence[Answer], head: HeadRows) -> Batch:
    """Pad and join some texts."""
    lengths = [len(each.prompt_ids) + len(each.output_ids) - 1 for each in answers]
    token_ids = torch.zeros(len(answers), max(lengths), dtype=torch.int64)
    rows = []
    for number, (each, length) in enumerate(zip(answers, lengths, strict=True)):
        text = np.concatenate([each.prompt_ids, each.output_ids])[:length]
        token_ids[number, :length] = torch.from_numpy(text)
        first = number * max(lengths) + len(each.prompt_ids) - 1
        rows.append(torch.arange(first, first + len(each.output_ids)))
    return Batch(
        token_ids,
        torch.cat(rows),
        head.of(np.concatenate([each.output_ids for each in answers])),
        head.of(np.concatenate([each.top_ids for each in answers])),
        torch.from_numpy(np.concatenate([np.exp(each.top_logprobs) for each in answers])),
    )


class Schedule:
    """Every micro-batch of a run in order; an epoch sees each text once, the last few left over."""

    def __init__(self, answers: Sequence[Answer], texts: int, seed: int) -> None:
        self._answers = answers
        self._texts = min(texts, len(answers))
        self._seed = seed
        self._epoch_of = lru_cache(maxsize=2)(self._order)

    def texts(self, number: int) -> list[Answer]:
        """The texts of micro-batch `number`, from 0."""
        epoch, place = divmod(number, self._per_epoch)
        return [self._answers[index] for index in self._epoch_of(epoch)[place]]

    @cached_property
    def _per_epoch(self) -> int:
        return len(self._answers) // self._texts

    def _order(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"{self._seed} {epoch}")
        indices = draw.sample(range(len(self._answers)), self._per_epoch * self._texts)
        batches: list[list[int]] = []
        for first in range(0, len(indices), WINDOW * self._texts):
            window = sorted(indices[first : first + WINDOW * self._texts], key=self._length)
            batches += [window[at : at + self._texts] for at in range(0, len(window), self._texts)]
        draw.shuffle(batches)
        return batches

    def _length(self, index: int) -> int:
        answer = self._answers[index]
        return len(answer.prompt_ids) + len(answer.output_ids)
