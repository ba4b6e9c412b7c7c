"""A trained draft that is small enough to ship: what training changed in its base model's weights.

Every matrix is stored as an int8 difference to the base's with one scale per row; vectors, exit
blocks and the id map are stored whole; what is missing is the base's own. The difference is small
beside the weights, so its rounding is too: at most half a scale, a 254th of a row's largest change.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from s2d_ray.errors import ModelError
from s2d_ray.models import draft_files, sources
from s2d_ray.models.cache import Report
from s2d_ray.models.draft_files import CHANGES, DraftCard
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.loading import load_decoder
from s2d_ray.models.sorted_draft import cut_draft

if TYPE_CHECKING:
    from s2d_ray.models.sorted_draft import SortedDraft

_INT8, _SCALE = "int8.", "scale."


def pack(folder: Path, into: Path, report: Report) -> Path:
    """Write the draft in `folder` as changes to its base. -> `into`

    Raises ModelError if the draft was not trained, or its base is not the one it was trained from.
    """
    card, draft = draft_files.read(folder)
    if not card.trained_tokens:
        raise ModelError(f"{folder}: is not trained, so there is nothing to pack; name its base")
    base = _base(folder, card, draft.head_ids.tolist(), report).state_dict()
    changes: dict[str, Tensor] = {}
    for name, value in draft.state_dict().items():
        before = base[name]
        if name == "head_ids" or value.dim() < 2 or name.startswith("exit_blocks."):
            changes[name] = value
        elif not torch.equal(value, before):
            changes[_INT8 + name], changes[_SCALE + name] = _rounded(value - before)
    into.mkdir(parents=True, exist_ok=True)
    save_file(changes, into / CHANGES)
    for name in ("README.md", "training.json"):
        if (folder / name).exists():
            shutil.copy(folder / name, into / name)
    draft_files.write_card(into, replace(card, packed=True))
    return into


def unpack(folder: Path, card: DraftCard, into: Path, report: Report) -> None:
    """Write the packed draft in `folder` as a plain one.

    Raises ModelError if a file is missing or damaged, or the base has other weights.
    """
    path = folder / CHANGES
    try:
        changes = load_file(path)
        head_ids = changes["head_ids"].tolist()
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    draft = _base(folder, card, head_ids, report)
    state = draft.state_dict()
    for name, change in changes.items():
        if name.startswith(_INT8):
            key = name.removeprefix(_INT8)
            state[key] += change.float() * changes[_SCALE + key][:, None]
        elif not name.startswith(_SCALE):
            state[name].copy_(change)
    draft_files.write(into, replace(card, packed=False), draft)


def _base(folder: Path, card: DraftCard, head_ids: list[int], report: Report) -> SortedDraft:
    """The draft as it was before it was trained."""
    base_folder = sources.resolve(card.base, report=report)
    if card.lineage.get("base_weights") != hash_of_weights(base_folder):
        raise ModelError(f"{folder}: was not trained from the weights that {card.base} has here")
    return cut_draft(
        load_decoder(base_folder, torch.float32, torch.device("cpu")),
        head_ids,
        card.exit_layers,
        layers=card.layers or None,
        own_heads=card.own_heads,
        block_size=card.block_size,
    )


def _rounded(change: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, columns] float32 -> int8 of the same shape, scales [rows] float32"""
    scale = change.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (change / scale[:, None]).round().to(torch.int8), scale
