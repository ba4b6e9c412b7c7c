"""Layers over several devices: the plan, and a forward that crosses from one to the next.

No GPU is needed: what the plan says does not depend on one, and the `meta` device stands for a
second one, since nothing that lies there can be mixed with what lies on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks, remove_hook_from_module

from s2d_ray.errors import ModelError
from s2d_ray.models.attention import Segment
from s2d_ray.models.loading import load_decoder, load_target_decoder, read_config
from s2d_ray.models.placement import LayerMap, spread, spread_over_gpus
from s2d_ray.models.ragged import RaggedModel
from tests.tiny import FAMILIES, tiny_checkpoint, tiny_config, tiny_decoder

CPU, META = torch.device("cpu"), torch.device("meta")
MANY_BYTES = 2**30
LAYERS = [f"model.layers.{number}" for number in range(6)]
families = pytest.mark.parametrize("family", FAMILIES)


def place_of(name: str, plan: LayerMap) -> Any:
    """Where the module `name` lies: a map may name it or a module above it."""
    while name not in plan:
        name = name.rpartition(".")[0]
    return plan[name]


def split(decoder: Any, second: torch.device) -> Any:
    """The decoder with its upper half on `second`, under the hooks of accelerate's dispatch."""
    upper = ["model.norm", "lm_head", *LAYERS[3:]]
    for name in upper:
        decoder.get_submodule(name).to(second)
    places: LayerMap = {name: CPU for name in ("model.embed_tokens", *LAYERS[:3])}
    attach_align_device_hook_on_blocks(
        decoder, execution_device=places | {name: second for name in upper}
    )
    return decoder


@families
@pytest.mark.parametrize("num_gpus", [2, 3])
def test_a_plan_spreads_whole_layers_evenly_in_order(family: str, num_gpus: int) -> None:
    """Every GPU has layers, none is cut in two, and a forward goes from GPU to GPU once."""
    plan = spread(tiny_config(family), torch.bfloat16, {gpu: MANY_BYTES for gpu in range(num_gpus)})
    places = [place_of(name, plan) for name in LAYERS]
    assert places == sorted(places)
    assert set(places) == set(range(num_gpus))
    assert all(places.count(gpu) <= 6 // num_gpus + 1 for gpu in range(num_gpus))
    assert not any(name.startswith(f"{layer}.") for name in plan for layer in LAYERS)
    assert place_of("model.embed_tokens", plan) == 0


def test_a_model_that_does_not_fit_is_refused_with_both_sizes() -> None:
    """Rather than to run layers from memory or disk, a hundred times slower."""
    with pytest.raises(ModelError, match=r"^num_gpus: the model needs .* GB, but 2 GPUs have"):
        spread(tiny_config(), torch.float32, {0: 100_000, 1: 100_000})


def test_more_gpus_than_there_are_is_refused() -> None:
    """One line with both numbers; a CPU target ignores the number of GPUs."""
    with pytest.raises(ModelError, match=r"^num_gpus: 99 were asked for, but torch sees \d+$"):
        spread_over_gpus(tiny_config(), torch.bfloat16, 99)


def test_on_the_cpu_the_number_of_gpus_changes_nothing(tmp_path: Path) -> None:
    decoder: Any = load_target_decoder(tiny_checkpoint(tmp_path), "float32", CPU, 2)
    assert {parameter.device for parameter in decoder.parameters()} == {CPU}


def test_a_checkpoint_loads_by_a_map(tmp_path: Path) -> None:
    """Layers in two groups through the same call that spreads them over GPUs."""
    folder = tiny_checkpoint(tmp_path)
    plan = spread(read_config(folder), torch.float32, {0: MANY_BYTES, 1: MANY_BYTES})
    mapped = load_decoder(folder, torch.float32, {name: "cpu" for name in plan})
    whole = load_decoder(folder, torch.float32, CPU)
    tensors = mapped.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in whole.state_dict().items())


@families
def test_a_forward_crosses_devices_with_all_that_its_layers_need(family: str) -> None:
    """Keys, values, masks and row numbers lie where their layer computes, in a tree too; one tensor
    left on the other device would be an error."""
    decoder = tiny_decoder(family, torch.float32)
    if decoder.config.tie_word_embeddings:
        decoder.lm_head = torch.nn.Linear(64, decoder.config.vocab_size, bias=False)
    model = RaggedModel(split(decoder, META), 512)
    remove_hook_from_module(decoder)  # it would bring the result back, which `meta` cannot
    run = model.pool.allocator.reserve(100)
    assert run is not None
    places = [model.pool.view(layer, 0, 64, 1, 0)[0].device for layer in range(6)]
    assert places == [CPU] * 3 + [META] * 3
    segments = [Segment(run, 0, 70), Segment(run, 70, 4, (0, 1, 0))]
    logits = model.forward([1] * 74, segments, [69, 73])
    assert (logits.device, logits.shape) == (META, (2, model.vocab_size))


@families
def test_the_hooks_that_move_rows_change_no_bit(family: str) -> None:
    """The same forward with and without them, all on one device."""
    logits = []
    for hooked in (False, True):
        decoder = tiny_decoder(family, torch.float32)
        model = RaggedModel(split(decoder, CPU) if hooked else decoder, 512)
        run = model.pool.allocator.reserve(100)
        assert run is not None
        segments = [Segment(run, 0, 70), Segment(run, 70, 4, (0, 1, 0))]
        logits.append(model.forward(range(74), segments, range(74)))
    assert torch.equal(*logits)
