"""From the words of a user to a run: base, corpus and recipe are read, checked and joined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from s2d_ray.errors import ConfigError, ModelError, RunError
from s2d_ray.models import sources
from s2d_ray.models.draft_files import DraftCard, trimmed_ids
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.loading import load_decoder, read_config
from s2d_ray.models.sorted_draft import cut_draft
from s2d_ray.models.text import Text
from s2d_ray.train.corpus_card import load_corpus, token_counts
from s2d_ray.train.options import Recipe, Run, begin, kept_layers
from s2d_ray.train.training import Job, Leg, Trainer, check_texts


def train_draft(
    base: str,
    corpus_folder: Path,
    out: Path,
    recipe: Recipe,
    leg: Leg,
    say: Callable[[str], None],
    advance: Callable[[int], None],
) -> bool:
    """Begin a run or go on with it. -> whether it is at its end; the draft lies in out/draft.

    Raises S2DError if base, corpus or recipe are wrong, or `out` holds another run.
    """
    _need_extra()
    accelerator = Accelerator()
    if not accelerator.is_main_process:
        say, advance = _silent, _silent
    with accelerator.main_process_first():
        folder = sources.resolve(base, report=say)
        job = _job(base, folder, corpus_folder, out, recipe, accelerator, say, advance)
    trainer = Trainer(job, accelerator)
    if trainer.progress.step:
        say(f"going on behind step {trainer.progress.step}")
        advance(trainer.progress.tokens)
    return trainer.train(leg).ended


def _job(
    base: str,
    folder: Path,
    corpus_folder: Path,
    out: Path,
    recipe: Recipe,
    accelerator: Accelerator,
    say: Callable[[str], None],
    advance: Callable[[int], None],
) -> Job:
    recipe.weights()
    layers = kept_layers(recipe.layers, read_config(folder).num_hidden_layers)
    if recipe.exits[-1] != len(layers):
        raise ConfigError(
            f"--exits: the last must be {len(layers)}, as many layers as --layers keeps"
        )
    corpus, text = load_corpus(corpus_folder), Text(folder)
    if text.fingerprint != corpus.settings.tokenizer:
        raise ModelError(f"{base}: its vocabulary is not the one of {corpus_folder}")
    processes = accelerator.num_processes
    run = Run(base, hash_of_weights(folder), corpus.card, processes, recipe)
    check_texts(corpus, run)
    begin(out, run)
    say(f"cutting layers {', '.join(map(str, layers))} out of {base}")
    decoder = load_decoder(folder, torch.float32, torch.device("cpu"))
    head_ids = trimmed_ids(folder, recipe.head_size, token_counts(corpus.training))
    draft = cut_draft(
        decoder,
        head_ids,
        recipe.exits,
        layers=layers,
        own_heads=recipe.own_heads,
        block_size=recipe.block_size,
    )
    card = DraftCard(
        base=base,
        exit_layers=recipe.exits,
        head_size=recipe.head_size,
        tokenizer=text.fingerprint,
        eos_token_ids=tuple(sorted(text.eos_token_ids)),
        layers=layers,
        own_heads=recipe.own_heads,
        block_size=recipe.block_size,
    )
    return Job(run, card, draft, corpus, out, say, advance)


def _need_extra() -> None:
    """Raises RunError if the libraries that only training needs are not installed."""
    try:
        import peft  # noqa: F401
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise RunError(
            f"{error.name} is missing; install it: pip install 's2d-ray[train]'"
        ) from None


def _silent(news: object) -> None:
    pass
