"""Int4 layers: what the blocks hold, what the kernel makes of them, and which layers get them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s2d_ray.models import int4
from s2d_ray.models.int4 import BLOCK, FEW_ROWS, Bfloat16Linear, Int4Linear, quantize_blocks
from s2d_ray.models.int8 import Int8Linear
from s2d_ray.models.linear import PackedLinear, replace_linears, suited

pytestmark = pytest.mark.usefixtures("two_threads")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def read(levels: Tensor, scales: Tensor, offsets: Tensor) -> Tensor:
    """The weights that the blocks stand for. -> [out, in]"""
    blocks = levels.float().unflatten(1, (-1, BLOCK)) - 8
    return (blocks * scales.float()[..., None] + offsets.float()[..., None]).flatten(1)


@pytest.mark.parametrize(("num_in", "num_out"), [(32, 16), (96, 64), (896, 1_152)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_layer_multiplies_by_the_weights_of_its_blocks(
    num_in: int, num_out: int, with_bias: bool
) -> None:
    """Every scale, offset and level stands where the kernel looks for it: with some exchanged, the
    error would be as large as the output. Rounded are only activations and sums, to bfloat16."""
    weight, rows = randn(num_out, num_in, seed=1), randn(2, 4, num_in, seed=2).bfloat16().float()
    weight *= torch.linspace(0.1, 3, num_out)[:, None]  # other scales and offsets in each block
    weight += torch.linspace(-1, 1, num_in)
    bias = 10 * randn(num_out, seed=3) if with_bias else None
    out = Int4Linear(weight, bias)(rows)
    expected = rows @ read(*quantize_blocks(weight)).T
    expected += 0 if bias is None else bias
    assert out.shape == (2, 4, num_out)
    assert out.dtype == rows.dtype
    assert (out - expected).abs().max() <= 2**-7 * expected.abs().max()


@pytest.mark.parametrize(("has_tiles", "other"), [(True, Bfloat16Linear), (False, Int8Linear)])
def test_many_rows_are_multiplied_by_what_is_faster_for_a_prompt(
    has_tiles: bool, other: type[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the weights as they were, not by those of the blocks; few rows are not."""
    if has_tiles and not torch.backends.mkldnn.is_available():
        pytest.skip("this host has no oneDNN")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_tiles)
    weight, bias, rows = randn(64, 96, seed=1), randn(64, seed=2), randn(FEW_ROWS + 1, 96, seed=3)
    layer, expected = Int4Linear(weight, bias), rows @ weight.T + bias
    assert torch.equal(layer(rows), other(weight, bias)(rows))
    assert not torch.equal(layer(rows[:FEW_ROWS]), other(weight, bias)(rows[:FEW_ROWS]))
    assert (layer(rows) - expected).abs().max() <= 0.02 * expected.abs().max()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(-6, 2))
def test_sixteen_levels_of_a_block_are_kept_exactly(seed: int, exponent: int) -> None:
    """Weights from a format of 4 bits lose nothing where their scales are short numbers."""
    levels = torch.randint(0, 16, (16, 4, BLOCK), generator=torch.Generator().manual_seed(seed))
    levels[..., 0], levels[..., 1] = 0, 15
    weight = ((levels - 8) * 2.0**exponent).flatten(1)
    assert torch.equal(read(*quantize_blocks(weight)), weight)


def test_a_clipped_range_is_taken_only_where_it_is_better() -> None:
    """Against levels over the whole range of each block, no block is worse, many are better."""
    weight = randn(64, 256)

    def errors(blocks: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return (read(*blocks) - weight).square().unflatten(1, (-1, BLOCK)).sum(-1)

    best = errors(quantize_blocks(weight))
    levels, scales, offsets = int4._levels(weight.unflatten(1, (-1, BLOCK)), 1.0)
    whole = errors((levels.flatten(1), scales[..., 0], offsets[..., 0]))
    assert (best <= whole).all()
    assert (best < whole).float().mean() > 0.3


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_a_block_of_equal_weights_is_kept(value: float) -> None:
    """No range, no division by zero."""
    weight = torch.full((16, 32), value)
    assert torch.equal(read(*quantize_blocks(weight)), weight)


def test_shapes_that_the_kernel_does_not_take_are_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers are packed, as for int8. The kernel would crash or read past the end."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    shapes = {"int4": (1_024, 512), "int8": (1_000, 500), "packed": (64, 64)}
    for kind, (num_in, num_out) in shapes.items():
        assert suited(nn.Linear(num_in, num_out), "int4") == kind
    assert suited(nn.Linear(1_024, 520), "int4") == "int8"


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this host has no oneDNN")
def test_no_layer_below_a_module_stays_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Siblings count as the one product that they become; an int4 layer may have one in int8."""
    tree = nn.ModuleDict({"gate_proj": nn.Linear(512, 512), "up_proj": nn.Linear(512, 512)})
    tree["down_proj"], tree["o_proj"] = nn.Linear(500, 512), nn.Linear(64, 64)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    replace_linears(tree, "int4")
    kinds = [type(module) for module in tree.modules()]
    assert [kinds.count(kind) for kind in (Int4Linear, Int8Linear, PackedLinear)] == [1, 2, 1]
    assert nn.Linear not in kinds
