"""The sorted draft (design D3): its first layers are models of their own, run in groups."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2d_ray.errors import ModelError
from s2d_ray.models import draft_files
from s2d_ray.models.attention import Segment
from s2d_ray.models.draft_files import DraftCard, load_network
from s2d_ray.models.linear import replace_linears
from s2d_ray.models.loading import linear_kind
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import (
    DraftNetwork,
    cut_draft,
    staged_equals_whole,
)
from tests.tiny import (
    EOS,
    FAMILIES,
    VOCAB_SIZE,
    reference_attention,
    tiny_decoder,
    tiny_draft_network,
)

EXITS = (2, 3, 6)
HEAD_IDS = tuple(range(0, VOCAB_SIZE, 3))
IDS = [(37 * index + 11) % VOCAB_SIZE for index in range(90)]
CPU = torch.device("cpu")

families = pytest.mark.parametrize("family", FAMILIES)


def truncated(decoder: Any, num_layers: int) -> Any:
    """A network of the first layers only, with the decoder's norm and the head's trimmed rows."""
    alone = copy.deepcopy(decoder)
    alone.model.layers = alone.model.layers[:num_layers]
    alone.config.num_hidden_layers = num_layers
    if getattr(alone.config, "layer_types", None):
        alone.config.layer_types = alone.config.layer_types[:num_layers]
    head = nn.Linear(decoder.config.hidden_size, len(HEAD_IDS), bias=False, dtype=decoder.dtype)
    head.weight = nn.Parameter(decoder.lm_head.weight[list(HEAD_IDS)], requires_grad=False)
    alone.lm_head = head
    return alone


def exit_logits(network: DraftNetwork, submodel: int, segments: list[Segment]) -> Tensor:
    """Scores behind IDS at one exit, the groups run segment by segment. [head_size]"""
    hidden = torch.empty(0)
    for group in range(submodel + 1):
        for segment in segments:
            first = segment.first_position
            hidden = network.run_group(group, IDS[first : first + segment.num_rows], [segment])
    return network.exit_logits(submodel, hidden)[0]


@families
@pytest.mark.parametrize("submodel", range(len(EXITS)))
def test_each_submodel_is_the_truncated_network_bit_for_bit(family: str, submodel: int) -> None:
    """Nesting: groups 0 … s, exit norm and head give the logits of a network that has only these
    layers, in the same calls; and, up to rounding, those of the stock `transformers` forward."""
    decoder = tiny_decoder(family)
    network = tiny_draft_network(decoder, EXITS, HEAD_IDS)
    alone = truncated(decoder, EXITS[submodel])
    with torch.no_grad():  # each exit has a norm of its own
        for number, norm in enumerate(network._draft.exit_norms.parameters()):
            norm.mul_(1.0 + 0.1 * number)
        alone.model.norm.weight.mul_(1.0 + 0.1 * submodel)
    model = RaggedModel(alone, 128)
    mine, other = network.pool.allocator.reserve(90), model.pool.allocator.reserve(90)
    assert mine is not None
    assert other is not None
    logits = exit_logits(network, submodel, [Segment(mine, 0, 90)])
    assert torch.equal(logits, model.forward(IDS, [Segment(other, 0, 90)], [89])[0])
    alone.set_attn_implementation(reference_attention(family))
    stock = alone(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, -1]
    assert torch.allclose(logits, stock, rtol=0, atol=1e-9)


@families
def test_the_submodels_differ(family: str) -> None:
    """The theorem above would be empty if depth made no difference."""
    network = tiny_draft_network(tiny_decoder(family), EXITS, HEAD_IDS)
    run = network.pool.allocator.reserve(90)
    assert run is not None
    rows = [exit_logits(network, submodel, [Segment(run, 0, 90)]) for submodel in range(3)]
    assert (rows[0] - rows[1]).abs().max() > 0.1
    assert (rows[1] - rows[2]).abs().max() > 0.1


@families
@pytest.mark.parametrize("cuts", [(1, 1, 88), (30, 34, 26), (63, 2, 25)])
def test_a_deep_group_may_catch_up_in_other_segments_than_the_shallow_one_ran(
    family: str, cuts: tuple[int, ...]
) -> None:
    """Hidden states wait in their slots: the deep groups see the same text whether they ran along
    or behind, in whatever pieces."""
    network = tiny_draft_network(tiny_decoder(family), EXITS, HEAD_IDS)
    run, whole_run = network.pool.allocator.reserve(90), network.pool.allocator.reserve(90)
    assert run is not None
    assert whole_run is not None
    pieces, first = [], 0
    for size in cuts:
        pieces.append(Segment(run, first, size))
        first += size
    for piece in pieces:
        end = piece.first_position + piece.num_rows
        network.run_group(0, IDS[piece.first_position : end], [piece])
    network.run_group(1, [], [Segment(run, 0, 90)])
    hidden = torch.empty(0)
    for piece in pieces:
        hidden = network.run_group(2, [], [piece])
    late = network.exit_logits(2, hidden)[0]
    at_once = exit_logits(network, 2, [Segment(whole_run, 0, 90)])
    assert torch.allclose(late, at_once, rtol=0, atol=1e-9)


@families
def test_the_load_time_check_accepts_supported_families(family: str) -> None:
    """Staged equals whole, bit for bit, so these families are not refused."""
    assert staged_equals_whole(tiny_draft_network(tiny_decoder(family), EXITS))


def test_the_load_time_check_refuses_groups_that_are_not_the_whole() -> None:
    """A group that misses a layer is seen; a check that always passes would be no check."""
    network = tiny_draft_network(tiny_decoder(), EXITS)
    group = network._draft._groups[2]
    group.layers = group.layers[:-1]
    assert not staged_equals_whole(network)
    assert network.pool.allocator.num_free_blocks == network.pool.allocator.num_blocks


@families
def test_a_saved_draft_comes_back_with_the_same_bits(family: str, tmp_path: Path) -> None:
    """Every tensor, the id map and the shapes are in the checkpoint: logits are equal at each
    exit, bit for bit, with the linear layers that this host uses for float32."""
    draft = cut_draft(tiny_decoder(family, torch.float32), HEAD_IDS, EXITS)
    with torch.no_grad():
        for number, norm in enumerate(draft.exit_norms.parameters()):
            norm.mul_(1.0 + 0.1 * number)  # exit norms of a trained draft differ
    card = DraftCard("base", EXITS, len(HEAD_IDS), "fingerprint", (EOS,))
    draft_files.write(tmp_path, card, draft)
    draft = draft.eval().requires_grad_(False)
    replace_linears(draft, linear_kind("float32", CPU))
    draft.split()
    saved, loaded = DraftNetwork(draft, 256), load_network(tmp_path, "float32", CPU, 256)
    assert loaded.exit_layers == EXITS
    assert loaded.head_ids.tolist() == list(HEAD_IDS)
    runs = [network.pool.allocator.reserve(90) for network in (saved, loaded)]
    for submodel in range(len(EXITS)):
        before, after = (
            exit_logits(network, submodel, [Segment(run, 0, 90)])
            for network, run in zip((saved, loaded), runs, strict=True)
            if run is not None
        )
        assert torch.equal(before, after)


def test_exits_deeper_than_the_base_model_are_refused_by_name() -> None:
    """One line with the field and both numbers."""
    with pytest.raises(ModelError, match=r"^draft\.exit_layers: 8 is more than the 6 layers"):
        cut_draft(tiny_decoder(), HEAD_IDS, (4, 8))


def test_cutting_a_draft_leaves_its_base_as_it_was() -> None:
    """A base model may go on serving as a target: nothing is shared, nothing is renamed."""
    base = tiny_decoder(dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    draft = cut_draft(base, HEAD_IDS, EXITS)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.zero_()
    assert base.config.num_hidden_layers == 6
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
