"""From the words of a user to a run: base, corpus and recipe are read, checked and joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from s2d_ray.config import DraftConfig
from s2d_ray.errors import ConfigError, ModelError, RunError
from s2d_ray.job_folder import begin
from s2d_ray.models import draft_files, sources
from s2d_ray.models.draft_files import DraftCard, trimmed_ids
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.loading import load_decoder, read_config
from s2d_ray.models.sorted_draft import SortedDraft, cut_draft
from s2d_ray.models.text import Text
from s2d_ray.train.corpus_card import Corpus, load_corpora, token_counts
from s2d_ray.train.kinds import Arithmetic
from s2d_ray.train.options import Recipe, Run, kept_layers
from s2d_ray.train.training import Job, Leg, Trainer, check_texts


@dataclass(frozen=True)
class Origin:
    """What a draft is trained from. start: a trained draft to begin with, not the base's layers."""

    base: str
    corpora: tuple[Path, ...]
    start: Path | None = None


def train_draft(
    origin: Origin,
    out: Path,
    recipe: Recipe,
    leg: Leg,
    say: Callable[[str], None],
    advance: Callable[[int], None],
) -> bool:
    """Begin a run or go on with it. -> whether it is at its end; the draft lies in out/draft.

    Raises S2DError if base, corpus, start or recipe are wrong, or `out` holds another run.
    """
    _need_extra()
    accelerator = Accelerator()
    if not accelerator.is_main_process:
        say, advance = _silent, _silent
    with accelerator.main_process_first():
        job = _job(origin, out, recipe, accelerator.num_processes, say, advance)
    trainer = Trainer(job, accelerator)
    if trainer.progress.step:
        say(f"going on behind step {trainer.progress.step}")
        advance(trainer.progress.tokens)
    return trainer.train(leg).ended


def quick_arithmetic() -> Arithmetic:
    """bfloat16 where this host has instructions for it, else float32."""
    if torch.cuda.is_available():
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        quick = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return Arithmetic.BFLOAT16 if quick else Arithmetic.FLOAT32


def _job(
    origin: Origin,
    out: Path,
    recipe: Recipe,
    processes: int,
    say: Callable[[str], None],
    advance: Callable[[int], None],
) -> Job:
    folder = sources.resolve(origin.base, report=say)
    recipe.weights()
    layers = kept_layers(recipe.layers, read_config(folder).num_hidden_layers)
    if recipe.exits[-1] != len(layers):
        raise ConfigError(
            f"--exits: the last must be {len(layers)}, as many layers as --layers keeps"
        )
    corpus, text = load_corpora(origin.corpora), Text(folder)
    if text.fingerprint != corpus.settings.tokenizer:
        raise ModelError(f"{origin.base}: its vocabulary is not the one of {corpus.folder}")
    card = DraftCard(
        base=origin.base,
        exit_layers=recipe.exits,
        head_size=recipe.head_size,
        tokenizer=text.fingerprint,
        eos_token_ids=tuple(sorted(text.eos_token_ids)),
        layers=layers,
        own_heads=recipe.own_heads,
        block_size=recipe.block_size,
        lineage={"base_weights": hash_of_weights(folder)},
    )
    if origin.start is None:
        start, make = "", partial(_cut, folder, card, corpus)
    else:
        started = draft_files.ensure_draft(DraftConfig(checkpoint=str(origin.start)), report=say)
        start, make = hash_of_weights(started), partial(_started, started, card)
        card = replace(card, trained_tokens=draft_files.read_card(started).trained_tokens)
    run = Run(origin.base, card.lineage["base_weights"], corpus.card, start, processes, recipe)
    check_texts(corpus, run)
    draft = make()
    begin(out, run.fields())
    return Job(run, card, draft, corpus, out, say, advance)


def _cut(folder: Path, card: DraftCard, corpus: Corpus) -> SortedDraft:
    """A draft of the base's own layers, with a head for what the corpus writes."""
    decoder = load_decoder(folder, torch.float32, torch.device("cpu"))
    return cut_draft(
        decoder,
        trimmed_ids(folder, card.head_size, token_counts(corpus.training)),
        card.exit_layers,
        layers=card.layers,
        own_heads=card.own_heads,
        block_size=card.block_size,
    )


def _started(folder: Path, card: DraftCard) -> SortedDraft:
    """A trained draft to begin with. Raises ModelError naming what it has otherwise."""
    held, draft = draft_files.read(folder)
    for name in ("tokenizer", "layers", "exit_layers", "head_size", "own_heads", "block_size"):
        if getattr(held, name) != getattr(card, name):
            raise ModelError(
                f"--start: the draft's {name} is {getattr(held, name)}, not {getattr(card, name)}"
            )
    if held.lineage.get("base_weights") != card.lineage["base_weights"]:
        raise ModelError(f"--start: the draft was not trained from the weights of {card.base}")
    return draft


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
