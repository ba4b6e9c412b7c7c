"""Loading: what the seams cannot honour is refused by name, in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from s2d_ray.errors import ModelError
from s2d_ray.models.families import check_family
from s2d_ray.models.int8 import Int8Linear
from s2d_ray.models.linear import PackedLinear
from s2d_ray.models.loading import (
    choose_device,
    compute_dtype,
    linear_kind,
    load_decoder,
    load_target_decoder,
    read_config,
)
from tests.tiny import FAMILIES, tiny_checkpoint, tiny_decoder

NAMES = "llama, mistral, qwen2, qwen3, gemma2, gemma3_text"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", layers=2)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        load_decoder(folder, torch.float32, CPU)
    assert "\n" not in refused.value.message
    return refused.value.message


def is_mapped(tensor: torch.Tensor, folder: Path) -> bool:
    """Whether the tensor's memory is a mapping of a file in `folder`."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        stretch, *_, name = line.split()
        start, end = (int(bound, 16) for bound in stretch.split("-"))
        if start <= tensor.data_ptr() < end:
            return name.startswith(str(folder))
    return False


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_of_each_family_loads_with_its_own_weights(
    family: str, tmp_path: Path
) -> None:
    """Every tensor comes back, in the dtype asked for, with no patch to the checkpoint."""
    folder = tiny_checkpoint(tmp_path, family, layers=2)
    loaded: Any = load_decoder(folder, torch.float64, CPU)
    made = tiny_decoder(family, torch.float64, 2)
    assert not loaded.training
    expected = dict(made.named_parameters())
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == torch.float64
        assert torch.equal(parameter, expected.pop(name))
    assert not expected


@pytest.mark.parametrize("family", ["gpt2", "gemma", "mixtral"])
def test_a_family_that_was_not_checked_is_refused_by_name(copy: Path, family: str) -> None:
    """The line names the folder, the family and those that work."""
    change_config(copy, model_type=family)
    message = refusal(copy)
    assert f"{copy}: model type '{family}' is not supported; use one of {NAMES}" == message


def test_an_unknown_or_missing_family_is_refused() -> None:
    """Also where no config class exists to read it."""
    for config in ({"model_type": "nonesuch"}, {}):
        with pytest.raises(ModelError, match=f"is not supported; use one of {NAMES}"):
            check_family(config, "here")


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", ["rope_type", "type"])
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rope_scaling_that_looks_at_the_whole_pack_is_refused(
    key: str, name: str, kind: str
) -> None:
    """Its frequencies depend on the longest text in the batch, so a text would depend on its
    neighbours. Both spellings of config files are understood."""
    with pytest.raises(ModelError, match=f"^here: rope type '{kind}' depends on the batch"):
        check_family({"model_type": "llama", key: {name: kind, "factor": 2.0}}, "here")


def test_rope_scaling_by_fixed_frequencies_is_fine() -> None:
    """Llama 3's scaling is a function of the position alone."""
    check_family({"model_type": "llama", "rope_scaling": {"rope_type": "llama3"}}, "here")
    check_family({"model_type": "qwen2", "rope_scaling": None}, "here")


def test_rope_scaling_of_one_layer_type_is_seen() -> None:
    """Gemma 3 has a rope for windows and one for the rest."""
    ropes = {"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "yarn"}}
    check_family({"model_type": "gemma3_text", "rope_parameters": ropes}, "here")
    ropes["full_attention"] = {"rope_type": "longrope"}
    with pytest.raises(ModelError, match="^here: rope type 'longrope' depends on the batch"):
        check_family({"model_type": "gemma3_text", "rope_parameters": ropes}, "here")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"layer_types": ["full_attention", "chunked_attention"]}, "layers of type 'chunked_att"),
        ({"use_bidirectional_attention": True}, "bidirectional attention is not supported"),
    ],
)
def test_attention_that_is_not_causal_or_windowed_is_refused(
    fields: dict[str, Any], reason: str
) -> None:
    """A known family may ask for what its decoders seldom have."""
    with pytest.raises(ModelError, match=f"^here: {reason}"):
        check_family({"model_type": "gemma3_text"} | fields, "here")
    windows = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 512}
    check_family({"model_type": "gemma3_text"} | windows, "here")


def test_missing_weights_are_one_line(copy: Path) -> None:
    """A stack of the library's own says nothing to a user."""
    (copy / "model.safetensors").unlink()
    assert refusal(copy).startswith(f"{copy}: weights cannot be loaded: ")


def test_truncated_weights_are_one_line(copy: Path) -> None:
    """An interrupted copy is the commonest damage."""
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2_000])
    assert refusal(copy).startswith(f"{copy}: weights cannot be loaded: ")


def test_weights_of_another_shape_are_one_line(copy: Path) -> None:
    """A config that does not belong to its weights."""
    change_config(copy, intermediate_size=128)
    assert refusal(copy).startswith(f"{copy}: weights cannot be loaded: ")


def test_weights_of_fewer_layers_are_refused(copy: Path) -> None:
    """Layers that the checkpoint lacks must not be served with random numbers."""
    change_config(copy, num_hidden_layers=3)
    assert refusal(copy).startswith(f"{copy}: weights cannot be loaded: ")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_missing_or_broken_config_is_one_line(copy: Path, content: str | None) -> None:
    """Whatever is wrong with config.json, the line names the folder."""
    path = copy / "config.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError) as refused:
        read_config(copy)
    assert refused.value.message.startswith(f"{copy}: ")
    assert "\n" not in refused.value.message


def test_cuda_without_a_gpu_is_refused_and_auto_falls_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Asked for by name it is an error; `auto` takes what there is."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelError, match="^device: cuda was asked for"):
        choose_device("cuda")
    assert choose_device("auto") == choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == CUDA
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_integers_on_a_gpu_are_refused(precision: Any) -> None:
    """Their kernels are the CPU's; the line says what to use instead."""
    refusal = f"^precision: {precision} runs on the CPU only; use bfloat16"
    with pytest.raises(ModelError, match=refusal):
        linear_kind(precision, CUDA)


def test_each_precision_has_its_linear_layer() -> None:
    """Packed ones carry the claim on bits, so they serve float32 on a CPU and nothing else."""
    packed = "packed" if torch.backends.mkldnn.is_available() else "portable"
    assert linear_kind("float32", CPU) == packed
    assert linear_kind("float32", CUDA) == "portable"
    assert linear_kind("bfloat16", CPU) == "portable"
    assert linear_kind("int8", CPU) == "int8"
    assert linear_kind("int4", CPU) == "int4"


@pytest.mark.parametrize(("precision", "kind"), [("float32", PackedLinear), ("int8", Int8Linear)])
@pytest.mark.usefixtures("int8_everywhere")
def test_a_target_has_no_stock_linear_left_and_owns_its_memory(
    checkpoint: Path, precision: Any, kind: type
) -> None:
    """Four products a layer, and the output head. What remains of the checkpoint is copied out of
    its mapping."""
    if kind is PackedLinear and not torch.backends.mkldnn.is_available():
        pytest.skip("this host has no oneDNN")
    decoder: Any = load_target_decoder(checkpoint, precision, CPU)
    kinds = [type(module) for module in decoder.modules()]
    assert kinds.count(kind) == 2 * 4 + 1
    assert torch.nn.Linear not in kinds
    assert not any(is_mapped(parameter, checkpoint) for parameter in decoder.parameters())
    plain = load_decoder(checkpoint, torch.float32, CPU)
    assert any(is_mapped(parameter, checkpoint) for parameter in plain.parameters())


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precisions_keep_their_rope_in_float32(checkpoint: Path, precision: Any) -> None:
    """Frequencies rounded to 8 bits would turn far positions by whole radians."""
    decoder: Any = load_target_decoder(checkpoint, precision, CPU)
    assert {parameter.dtype for parameter in decoder.parameters()} == {compute_dtype(precision)}
    plain: Any = load_decoder(checkpoint, torch.float32, CPU)
    assert torch.equal(decoder.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
    assert torch.nn.Linear in {type(module) for module in decoder.modules()}
