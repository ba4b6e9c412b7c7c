"""The sorted draft: one network whose first layers are themselves usable models.

A layer group is the family's own `transformers` model over a slice of its layers, fed hidden states
and without its final norm. Sub-model s runs groups 0 … s, then its own exit block, if the draft has
any, and its own exit norm, then a head over a trimmed vocabulary, which all exits share or each has
for itself. Groups have their own fill: see `engine/draft_engine.py`.

Source: S2D, arXiv 2407.01955 (sorted exits at 6/9/12 layers, cascade of confidences).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig
from transformers.initialization import no_init_weights

from s2d_ray.errors import ModelError
from s2d_ray.models.attention import IMPLEMENTATION, RaggedBatch, Segment
from s2d_ray.models.exits import ExitBlock, Exits
from s2d_ray.models.kv_pool import BLOCK, Copy, KVPool, lazy_zeros
from s2d_ray.models.ragged import make_pool, row_positions


class SortedDraft(nn.Module):
    """The network: layer groups; per sub-model an exit norm and maybe a block; trimmed heads.

    config: of the trunk's layers or of more, which are left out.
    Its weights mean nothing until they are loaded; to draw random ones first would take longer.
    """

    def __init__(self, config: PretrainedConfig, exits: Exits) -> None:
        super().__init__()
        self.config: Any = _config_of(config, range(exits.layers[-1]))
        self.exits = exits
        self.exit_layers = exits.layers
        width, count = self.config.hidden_size, len(exits.layers)
        with no_init_weights():
            trunk: Any = AutoModel.from_config(
                self.config, attn_implementation=IMPLEMENTATION, dtype=torch.float32
            )
            self.heads = nn.ModuleList(
                nn.Linear(width, exits.head_size, bias=False)
                for _ in range(count if exits.own_heads else 1)
            )
            final_norm, trunk.norm = trunk.norm, nn.Identity()
            self.exit_blocks = nn.ModuleList(
                ExitBlock(final_norm, width, exits.block_size)
                for _ in range(count if exits.block_size else 0)
            )
        self.trunk = trunk
        self.exit_norms = nn.ModuleList(copy.deepcopy(final_norm) for _ in range(count))
        self.head_ids: Tensor
        self.register_buffer("head_ids", torch.zeros(exits.head_size, dtype=torch.int64))
        self._groups: list[Any] = []

    def split(self, attention: str = IMPLEMENTATION) -> None:
        """Make the layer groups out of the trunk's present layers; call after loading weights.

        attention: an implementation that `transformers` knows; only the default one runs packs.
        """
        self.trunk.set_attn_implementation(attention)
        bounds = (0, *self.exit_layers)
        self._groups = [
            _slice_of(self.trunk, first, last)
            for first, last in zip(bounds, bounds[1:], strict=False)
        ]

    @property
    def num_submodels(self) -> int:
        """Number of exits."""
        return len(self.exit_layers)

    def run_group(
        self, group: int, inputs: Tensor, positions: Tensor, batch: RaggedBatch
    ) -> Tensor:
        """One layer group over a packed batch.

        Shapes: group 0 takes token ids [rows], the others hidden states [rows, hidden] of the group
        before; positions [rows] -> pre-norm hidden states [rows, hidden].
        """
        name = "input_ids" if group == 0 else "inputs_embeds"
        out = self._groups[group](
            **{name: inputs[None]}, position_ids=positions[None], use_cache=False, ragged=batch
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def hidden_at_exits(self, token_ids: Tensor, num_submodels: int) -> list[Tensor]:
        """Texts as wholes, for training: causal, each from position 0, padded behind its end.

        Shapes: [texts, length] -> of each of the first exits, pre-norm [texts, length, hidden].
        """
        hidden: list[Tensor] = []
        for group in self._groups[:num_submodels]:
            inputs = {"inputs_embeds": hidden[-1]} if hidden else {"input_ids": token_ids}
            hidden.append(group(**inputs, use_cache=False).last_hidden_state)
        return hidden

    def exit_logits(self, submodel: int, hidden: Tensor) -> Tensor:
        """Scores of the trimmed vocabulary. [rows, hidden] -> [rows, head_size]."""
        if self.exits.block_size:
            hidden = self.exit_blocks[submodel](hidden)
        head = self.heads[submodel if self.exits.own_heads else 0]
        logits: Tensor = head(self.exit_norms[submodel](hidden))
        cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


def _config_of(config: PretrainedConfig, layers: Sequence[int]) -> PretrainedConfig:
    """A config of some layers alone; what is said layer by layer is cut likewise."""
    part: Any = copy.deepcopy(config)
    part.num_hidden_layers = len(layers)
    if getattr(part, "layer_types", None):
        part.layer_types = [part.layer_types[layer] for layer in layers]
    result: PretrainedConfig = part
    return result


def _slice_of(trunk: Any, first: int, last: int) -> Any:
    """The family's model over layers first … last − 1, sharing its modules with the trunk."""
    with torch.device("meta"):
        part = type(trunk)(_config_of(trunk.config, range(first, last)))
    part.layers = nn.ModuleList(trunk.layers[first:last])
    part.embed_tokens = trunk.embed_tokens
    part.rotary_emb = trunk.rotary_emb
    part.norm = nn.Identity()
    return part.eval()


class DraftNetwork:
    """A sorted draft over a KV pool and, per boundary, a pool of hidden states.

    Hidden states live in slots like keys do, so a rollback is a change of integers. Not
    thread-safe: one call at a time.
    """

    def __init__(self, draft: SortedDraft, cache_tokens: int) -> None:
        self._draft = draft
        parameter = next(draft.exit_norms.parameters())
        self.device: torch.device = parameter.device
        self.dtype: torch.dtype = parameter.dtype
        self.exit_layers = draft.exit_layers
        self.hidden_size: int = draft.config.hidden_size
        self.head_ids = draft.head_ids
        self.pool: KVPool = make_pool(draft.trunk, cache_tokens, self.dtype)
        num_slots = self.pool.allocator.num_blocks * BLOCK
        shape = (draft.num_submodels - 1, num_slots, self.hidden_size)
        self._states = lazy_zeros(shape, self.dtype, self.device)

    @torch.inference_mode()
    def run_group(
        self, group: int, token_ids: Sequence[int], segments: Sequence[Segment]
    ) -> Tensor:
        """Run one group over each segment's positions and keep what the next group will need.

        token_ids [rows] are read by group 0 only; the others read the stored hidden states.
        -> hidden states of each segment's last row [segments, hidden].
        """
        batch = RaggedBatch(self.pool, segments)
        positions = row_positions(segments, self.device)
        if group == 0:
            inputs = torch.tensor(token_ids, device=self.device)
        else:
            inputs = torch.cat([self._states[group - 1, _slots(s)] for s in segments])
        hidden = self._draft.run_group(group, inputs, positions, batch)
        last_rows, row = [], 0
        for segment in segments:
            if group < len(self.exit_layers) - 1:
                self._states[group, _slots(segment)] = hidden[row : row + segment.num_rows]
            row += segment.num_rows
            last_rows.append(row - 1)
        return hidden[torch.tensor(last_rows, device=self.device)]

    @torch.inference_mode()
    def exit_logits(self, submodel: int, hidden: Tensor) -> Tensor:
        """Scores of the trimmed vocabulary. [rows, hidden] -> [rows, head_size]."""
        return self._draft.exit_logits(submodel, hidden)

    def copy(self, copy: Copy) -> None:
        """Copy what positions of one run hold into another.

        Boundary states stay behind: a copied position has been through every group already.
        """
        self.pool.copy(copy)


def _slots(segment: Segment) -> slice:
    first = segment.run.start + segment.first_position
    return slice(first, first + segment.num_rows)


@torch.inference_mode()
def staged_equals_whole(network: DraftNetwork) -> bool:
    """Whether the groups one after another equal one pass over all layers, bit for bit.

    A family that scales hidden states inside its model, say, would fail here and is refused.
    """
    run = network.pool.allocator.reserve(BLOCK)
    if run is None:
        raise ModelError(f"the load-time check needs {BLOCK} tokens of cache")
    try:
        segment = [Segment(run, 0, 20)]
        ids = [(37 * index + 11) % network._draft.config.vocab_size for index in range(20)]
        hidden = torch.empty(0)
        for group in range(len(network.exit_layers)):
            hidden = network.run_group(group, ids, segment)
        batch = RaggedBatch(network.pool, segment)
        positions = row_positions(segment, network.device)
        tokens = torch.tensor(ids, device=network.device)
        trunk: Any = network._draft.trunk
        whole = trunk(
            input_ids=tokens[None], position_ids=positions[None], use_cache=False, ragged=batch
        ).last_hidden_state[0]
        return torch.equal(hidden[0], whole[-1])
    finally:
        network.pool.allocator.release(run)


def cut_draft(
    base: nn.Module,
    head_ids: Sequence[int],
    exit_layers: Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    own_heads: bool = False,
    block_size: int = 0,
) -> SortedDraft:
    """An untrained sorted draft out of a base model's layers.

    layers: which of the base's, increasing; by default the first, as many as the deepest exit has.
    Raises ModelError if the base lacks one, or the deepest exit is not behind the last.
    """
    source: Any = base
    exits = Exits(tuple(exit_layers), len(head_ids), own_heads, block_size)
    kept = tuple(layers if layers is not None else range(exit_layers[-1]))
    _check_layers(kept, exits.layers, source.config.num_hidden_layers)
    draft = SortedDraft(_config_of(source.config, kept), exits)
    place = {layer: number for number, layer in enumerate(kept)}
    named = ((_renumbered(key, place), value) for key, value in source.model.state_dict().items())
    draft.trunk.load_state_dict({key: value for key, value in named if key})
    ids = torch.tensor(head_ids)
    with torch.no_grad():
        for norm in draft.exit_norms.parameters():
            norm.copy_(source.model.norm.weight)
        for head in draft.heads.parameters():
            head.copy_(source.lm_head.weight[ids])
        generator = torch.Generator().manual_seed(0)
        block: Any
        for block in draft.exit_blocks:
            block.start(source.model.norm.weight, generator)
    draft.head_ids.copy_(ids)
    return draft


def _check_layers(kept: Sequence[int], exit_layers: Sequence[int], num_layers: int) -> None:
    deepest = exit_layers[-1]
    if max(deepest, kept[-1] + 1) > num_layers:
        raise ModelError(
            f"draft.exit_layers: {max(deepest, kept[-1] + 1)} is more than the {num_layers} layers "
            "of the base model"
        )
    if deepest != len(kept):
        raise ModelError(
            f"draft.exit_layers: the deepest exit is behind layer {deepest}, but {len(kept)} "
            "layers are kept"
        )


def _renumbered(key: str, place: Mapping[int, int]) -> str:
    """The key of a base's tensor in the trunk; empty for one that the draft leaves out."""
    parts = key.split(".")
    if parts[0] == "norm":
        return ""
    if parts[0] != "layers":
        return key
    number = place.get(int(parts[1]))
    return "" if number is None else ".".join(["layers", str(number), *parts[2:]])
