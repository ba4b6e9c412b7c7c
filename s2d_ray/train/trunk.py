"""Which weights of a draft are trained, and with which attention."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from s2d_ray.models.sorted_draft import SortedDraft
from s2d_ray.train.kinds import Trunk

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Names that all families give to the linear layers of theirs."""


def prepare(draft: SortedDraft, trunk: Trunk, rank: int, exits: set[int], seed: int) -> None:
    """Make a cut draft trainable, in place.

    The embedding stays the base's: it is the largest part and need not be shipped. The layers are
    trained whole, by low-rank additions (LoRA, Hu et al., arXiv 2106.09685, by `peft`) or not at
    all; heads, exit norms and exit blocks of the trained `exits` always are.
    """
    draft.requires_grad_(False)
    torch.manual_seed(seed)
    if trunk is Trunk.FULL:
        draft.trunk.layers.requires_grad_(True)
    elif trunk is Trunk.LOW_RANK:
        _add_low_rank(draft, rank)
    for exit_ in exits:
        for part in _parts_of(draft, exit_):
            part.requires_grad_(True)
    _freeze_behind(draft, max(exits))
    draft.split(attention_of(draft.config))


def merged(draft: SortedDraft) -> SortedDraft:
    """A copy with low-rank additions added in, as it is saved."""
    whole = copy.deepcopy(draft)
    for name, module in list(whole.trunk.named_modules()):
        if hasattr(module, "get_base_layer"):
            module.merge()
            whole.trunk.set_submodule(name, module.get_base_layer())
    return whole


def attention_of(config: Any) -> str:
    """The quick attention, or the plain one for a family whose soft caps the quick one lacks."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def _add_low_rank(draft: SortedDraft, rank: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS)
    inject_adapter_in_model(config, draft.trunk)


def _parts_of(draft: SortedDraft, exit_: int) -> Iterator[nn.Module]:
    yield draft.exit_norms[exit_]
    yield draft.heads[exit_ if draft.exits.own_heads else 0]
    if draft.exits.block_size:
        yield draft.exit_blocks[exit_]


def _freeze_behind(draft: SortedDraft, exit_: int) -> None:
    """Layers behind the deepest trained exit take no part."""
    for layer in draft.trunk.layers[draft.exit_layers[exit_] :]:
        layer.requires_grad_(False)
