"""Small corpora without a target: texts and laws drawn at random, on disk like real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.text import Text
from s2d_ray.train.corpus_card import write_card
from s2d_ray.train.corpus_files import Answer, CorpusWriter, Settings
from s2d_ray.train.prompts import Prompts
from tests.tiny import VOCAB_SIZE

TOP = 5


def random_answer(draw: np.random.Generator, task: int, held_out: bool, length: int = 12) -> Answer:
    """A prompt of 3 to 8 ids and an output of up to `length`, each token among the likeliest."""
    size = int(draw.integers(2, length + 1))
    law = np.sort(draw.dirichlet(np.ones(TOP) * 0.5, size), axis=1)[:, ::-1] * 0.9 + 0.01
    top_ids = np.stack([draw.permutation(VOCAB_SIZE)[:TOP] for _ in range(size)])
    return Answer(
        task,
        float(task % 2),
        held_out,
        draw.integers(0, VOCAB_SIZE, int(draw.integers(3, 9))),
        top_ids[np.arange(size), draw.integers(0, 2, size)],
        top_ids,
        np.log(law).astype(np.float32),
    )


def settings_of(checkpoint: Path) -> Settings:
    """What a corpus of a tiny checkpoint says of itself."""
    return Settings(
        target="tiny",
        model=str(checkpoint),
        precision="float32",
        weights=hash_of_weights(checkpoint),
        tokenizer=Text(checkpoint).fingerprint,
        vocab_size=VOCAB_SIZE,
        prompts="-",
        seed=1,
        temperatures=(0.0, 1.0),
        max_tokens=12,
        top=TOP,
        held_out=0.25,
    )


def random_corpus(folder: Path, checkpoint: Path, *, texts: int = 24, seed: int = 0) -> Path:
    """Write a finished corpus, a quarter of it held out. -> `folder`"""
    draw = np.random.default_rng(seed)
    answers = [random_answer(draw, task, task % 4 == 3) for task in range(texts)]
    CorpusWriter(folder, settings_of(checkpoint)).append(answers, dropped=0)
    write_card(folder, checkpoint, Prompts(tuple(tuple(a.prompt_ids.tolist()) for a in answers)))
    return folder
