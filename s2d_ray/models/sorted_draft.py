"""The sorted draft: one network whose first layers are themselves usable models.

A layer group is the family's own `transformers` model over a slice of its layers, fed hidden states
and without its final norm. Sub-model s runs groups 0 … s, then its own exit norm, then a head over
a trimmed vocabulary that all exits share. Groups have their own fill: see `engine/draft_engine.py`.

Source: S2D, arXiv 2407.01955 (sorted exits at 6/9/12 layers, cascade of confidences).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig
from transformers.initialization import no_init_weights

from s2d_ray.errors import ModelError
from s2d_ray.models.attention import IMPLEMENTATION, RaggedBatch, Segment
from s2d_ray.models.kv_pool import BLOCK, Copy, KVPool, lazy_zeros
from s2d_ray.models.ragged import make_pool, row_positions


class SortedDraft(nn.Module):
    """The network: layer groups, one exit norm per sub-model, one trimmed head.

    Its weights mean nothing until they are loaded; to draw random ones first would take longer.
    """

    def __init__(
        self, config: PretrainedConfig, exit_layers: Sequence[int], head_size: int
    ) -> None:
        super().__init__()
        self.config: Any = _layers_of(config, 0, exit_layers[-1])
        self.exit_layers = tuple(exit_layers)
        with no_init_weights():
            trunk: Any = AutoModel.from_config(
                self.config, attn_implementation=IMPLEMENTATION, dtype=torch.float32
            )
            self.head = nn.Linear(self.config.hidden_size, head_size, bias=False)
        final_norm, trunk.norm = trunk.norm, nn.Identity()
        self.trunk = trunk
        self.exit_norms = nn.ModuleList(copy.deepcopy(final_norm) for _ in exit_layers)
        self.head_ids: Tensor
        self.register_buffer("head_ids", torch.zeros(head_size, dtype=torch.int64))
        self._groups: list[Any] = []

    def split(self) -> None:
        """Make the layer groups out of the trunk's present layers; call after loading weights."""
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

    def exit_logits(self, submodel: int, hidden: Tensor) -> Tensor:
        """Scores of the trimmed vocabulary. [rows, hidden] -> [rows, head_size]."""
        logits: Tensor = self.head(self.exit_norms[submodel](hidden))
        cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap


def _layers_of(config: PretrainedConfig, first: int, last: int) -> PretrainedConfig:
    """A config of layers first … last − 1 alone; what is said layer by layer is cut likewise."""
    part: Any = copy.deepcopy(config)
    part.num_hidden_layers = last - first
    if getattr(part, "layer_types", None):
        part.layer_types = part.layer_types[first:last]
    part._attn_implementation = IMPLEMENTATION
    result: PretrainedConfig = part
    return result


def _slice_of(trunk: Any, first: int, last: int) -> Any:
    """The family's model over layers first … last − 1, sharing its modules with the trunk."""
    with torch.device("meta"):
        part = type(trunk)(_layers_of(trunk.config, first, last))
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
        self.head_ids = draft.head_ids
        self.pool: KVPool = make_pool(draft.trunk, cache_tokens, self.dtype)
        num_slots = self.pool.allocator.num_blocks * BLOCK
        shape = (draft.num_submodels - 1, num_slots, draft.config.hidden_size)
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


def cut_draft(base: nn.Module, head_ids: Sequence[int], exit_layers: Sequence[int]) -> SortedDraft:
    """An untrained sorted draft from the first layers of a base model.

    Raises ModelError if the base has fewer layers than the deepest exit.
    """
    source: Any = base
    if exit_layers[-1] > source.config.num_hidden_layers:
        raise ModelError(
            f"draft.exit_layers: {exit_layers[-1]} is more than the "
            f"{source.config.num_hidden_layers} layers of the base model"
        )
    draft = SortedDraft(source.config, exit_layers, len(head_ids))
    trunk_state = {
        key: value
        for key, value in source.model.state_dict().items()
        if not key.startswith("norm.") and not _beyond(key, exit_layers[-1])
    }
    draft.trunk.load_state_dict(trunk_state)
    ids = torch.tensor(head_ids)
    with torch.no_grad():
        for norm in draft.exit_norms.parameters():
            norm.copy_(source.model.norm.weight)
        draft.head.weight.copy_(source.lm_head.weight[ids])
    draft.head_ids.copy_(ids)
    return draft


def _beyond(key: str, num_layers: int) -> bool:
    parts = key.split(".")
    return parts[0] == "layers" and int(parts[1]) >= num_layers
