"""The folder of a trained draft: a draft that the engines load, and where it is from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from s2d_ray import __version__
from s2d_ray.job_folder import write_atomically
from s2d_ray.models import draft_files
from s2d_ray.models.draft_files import DraftCard
from s2d_ray.models.sorted_draft import SortedDraft
from s2d_ray.train.options import Run

TRAINING = "training.json"


def save_draft(
    folder: Path, draft: SortedDraft, card: DraftCard, run: Run, figures: dict[str, float]
) -> None:
    """Write draft, card and page; figures: of the held-out texts.

    card: of the draft that the run began with.
    """
    lineage = {
        "made_by": "train",
        "version": __version__,
        "torch": torch.__version__,
        "base_weights": run.base_weights,
        "corpus": run.corpus,
        "seed": str(run.recipe.seed),
    }
    trained_tokens = card.trained_tokens + int(figures["tokens"])
    whole = replace(card, trained_tokens=trained_tokens, lineage=lineage)
    draft_files.write(folder, whole, draft)
    write_atomically(folder / TRAINING, json.dumps(run.fields() | figures, indent=2) + "\n")
    write_atomically(folder / "README.md", _page(whole, run, figures))


def _page(card: DraftCard, run: Run, figures: dict[str, float]) -> str:
    lines = [
        f"# Sorted draft of {card.base}",
        "",
        f"Its first {', '.join(map(str, card.exit_layers))} layers are each a model that proposes "
        f"{card.head_size:,} token ids; trained by `s2d train` on {card.trained_tokens:,} tokens "
        "of a target's own text. Use it with `draft.checkpoint` in a config.",
        "",
        "Held-out texts, each token behind the target's own:",
        "",
        "| exit | agreement with the target's likeliest token | probability in common, at least |",
        "|---|---|---|",
    ]
    for layers in card.exit_layers:
        if f"agreed_{layers}" in figures:
            agreed, overlap = figures[f"agreed_{layers}"], figures[f"overlap_{layers}"]
            lines.append(f"| {layers} layers | {agreed:.1%} | {overlap:.3f} |")
    lines += ["", "| training | |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | `{value}` |" for name, value in run.fields().items()]
    return "\n".join(lines) + "\n"
