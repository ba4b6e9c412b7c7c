"""What a target thinks of texts that are already written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s2d_ray.config import TargetConfig
from s2d_ray.errors import DataError
from s2d_ray.models.attention import Segment
from s2d_ray.models.loading import choose_device, load_target_decoder
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.train.corpus_files import Answer

PACK = 4
"""Texts of one forward: the scores of more over a large vocabulary take much memory."""


@dataclass(frozen=True)
class Given:
    """A text that somebody else wrote. number: its place in the order of all."""

    number: int
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    held_out: bool


def load_judge(target: TargetConfig, folder: Path) -> RaggedModel:
    """A target's network in its precision, with room for `PACK` of its longest texts."""
    device = choose_device(target.device)
    decoder = load_target_decoder(folder, target.precision, device, target.num_gpus)
    return RaggedModel(decoder, PACK * target.max_context)


def score_given(
    model: RaggedModel, texts: Iterable[Given], top: int, told: Callable[[int], None]
) -> Iterator[Answer]:
    """The texts as a corpus keeps them, with the `top` likeliest tokens at each output position.

    They count as drawn at temperature 1. told: takes numbers of scored tokens.
    """
    waiting = iter(texts)
    while pack := list(islice(waiting, PACK)):
        scores = target_logits(
            model,
            [(*text.prompt_ids, *text.output_ids[:-1]) for text in pack],
            [len(text.prompt_ids) - 1 for text in pack],
        )
        for text, logits in zip(pack, scores, strict=True):
            likeliest = torch.log_softmax(logits, dim=-1).topk(top)
            told(len(text.output_ids))
            yield Answer(
                task=text.number,
                temperature=1.0,
                held_out=text.held_out,
                prompt_ids=np.array(text.prompt_ids, np.int64),
                output_ids=np.array(text.output_ids, np.int64),
                top_ids=likeliest.indices.numpy(),
                top_logprobs=likeliest.values.numpy(),
            )


@torch.inference_mode()
def target_logits(
    model: RaggedModel, texts: Sequence[Sequence[int]], firsts: Sequence[int]
) -> list[Tensor]:
    """Scores behind each text's rows from its `first` on. -> [rows, vocab] each, float32 on the CPU

    Raises DataError if the texts have more tokens than the model's cache.
    """
    runs = [model.pool.allocator.reserve(len(text)) for text in texts]
    held = [run for run in runs if run is not None]
    try:
        if len(held) < len(texts):
            raise DataError(f"a text of {max(map(len, texts))} tokens does not fit the cache")
        segments = [Segment(run, 0, len(text)) for run, text in zip(held, texts, strict=True)]
        ends = list(accumulate(map(len, texts)))
        wanted = [
            row
            for text, first, end in zip(texts, firsts, ends, strict=True)
            for row in range(end - len(text) + first, end)
        ]
        logits = model.forward([token for text in texts for token in text], segments, wanted)
    finally:
        for run in held:
            model.pool.allocator.release(run)
    sizes = [len(text) - first for text, first in zip(texts, firsts, strict=True)]
    return list(logits.float().cpu().split(sizes))
