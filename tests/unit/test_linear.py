"""The linear seam: rows keep their bits, and int8 counts in exact integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s2d_ray.models.int8 import (
    _ROUND_ALONE,
    Int8Linear,
    _round,
    quantize_rows,
    quantize_weight,
)
from s2d_ray.models.linear import (
    LinearKind,
    PackedLinear,
    make_linear,
    replace_linears,
    suited,
)
from tests.tiny import threads

pytestmark = pytest.mark.usefixtures("two_threads")

needs_packed_linears = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this host has no oneDNN"
)
# A lone row of 1,536 inputs takes another kernel of oneDNN than two rows do.
SHAPES = ((576, 192), (1536, 576), (64, 100), (100, 30), (33, 7))
LARGEST = 64 * 63 + 31
"""Largest level of an activation: two digits of base 64."""


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(kind: LinearKind, num_in: int, num_out: int, bias: bool = True) -> nn.Module:
    linear = nn.Linear(num_in, num_out, bias=bias).requires_grad_(False)
    linear.weight.copy_(randn(num_out, num_in, seed=num_in) / num_in**0.5)
    if bias:
        linear.bias.copy_(randn(num_out, seed=num_out))
    return make_linear(linear, kind)


def oracle(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What int8 must give: int64 sums of levels, one float32 factor per channel and per row."""
    levels, channel_scales = quantize_weight(weight)
    digits, row_scales = quantize_rows(rows)
    sums = [digit.to(torch.int64) @ levels.to(torch.int64).T for digit in digits]
    high_part, low_part = (part.float() * channel_scales for part in sums)
    out = (high_part * 64 + low_part) * row_scales
    return out if bias is None else out + bias


@pytest.mark.parametrize(("num_in", "num_out"), [(64, 48), (576, 96), (1536, 64), (33, 5)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_int8_equals_an_integer_oracle(num_in: int, num_out: int, with_bias: bool) -> None:
    """Zero tolerance: all sums over the inputs are exact integers, on whatever kernel the host
    has; only the scales are floats. Outliers in some rows do not spoil it."""
    weight, rows = randn(num_out, num_in, seed=1), randn(40, num_in, seed=2)
    rows[::3, ::7] *= 50
    bias = randn(num_out, seed=3) if with_bias else None
    assert torch.equal(Int8Linear(weight, bias)(rows), oracle(rows, weight, bias))


@pytest.mark.parametrize("num_in", [64, 1024, 4096])
@pytest.mark.parametrize(("activation_sign", "weight_sign"), [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_int8_does_not_saturate_when_every_level_is_at_its_end(
    num_in: int, activation_sign: int, weight_sign: int
) -> None:
    """The worst case of every sum, where 16-bit partial sums of an older kernel would stick: all
    activations at ±4,063 and all weights at ±127 give exactly the product of both, num_in times."""
    rows = torch.full((9, num_in), float(activation_sign * LARGEST))
    weight = torch.full((16, num_in), float(weight_sign * 127))
    expected = float(activation_sign * weight_sign * LARGEST * 127 * num_in)
    assert (Int8Linear(weight, None)(rows) == expected).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([2, 64, 130]), st.floats(1e-3, 1e3))
def test_int8_is_exact_on_numbers_that_are_levels_already(
    seed: int, num_in: int, scale: float
) -> None:
    """Inputs on the grid lose nothing, also at both ends of it and in alternating signs."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-LARGEST, LARGEST + 1, (5, num_in), generator=generator).float()
    weight = torch.randint(-127, 128, (6, num_in), generator=generator).float()
    rows[:, 0], weight[:, 0] = LARGEST, 127  # so that both scales are 1
    exact = rows.to(torch.int64) @ weight.to(torch.int64).T
    out = Int8Linear(weight, None)(rows).to(torch.int64)
    assert (out - exact).abs().max() <= exact.abs().max() / 2**22
    (high, low), row_scale = quantize_rows(rows * scale)
    assert torch.equal(64 * high + low, rows)
    assert row_scale.flatten().tolist() == pytest.approx([scale] * 5, rel=1e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 200), st.floats(1e-6, 1e6))
def test_digits_stay_where_no_kernel_can_saturate(seed: int, num_in: int, size: float) -> None:
    """|high| <= 63 and |low| <= 32: with the zero point of 64 an unsigned byte holds both and the
    sum of two products fits 16 bits. The digits give the input back within half a level."""
    rows = size * randn(8, num_in, seed=seed)
    (high, low), scale = quantize_rows(rows)
    assert high.abs().max() <= 63
    assert low.abs().max() <= 32
    assert ((64 * high + low) * scale - rows).abs().max() <= 0.501 * scale.max()


def test_a_row_of_zeros_stays_a_row_of_zeros() -> None:
    """No scale is zero, so nothing becomes NaN."""
    layer = make("int8", 64, 30, bias=False)
    assert (layer(torch.zeros(3, 64)) == 0).all()
    assert (Int8Linear(torch.zeros(4, 8), None)(randn(2, 8)) == 0).all()


@pytest.mark.parametrize("kind", [pytest.param("packed", marks=needs_packed_linears), "int8"])
@pytest.mark.parametrize(("num_in", "num_out"), SHAPES)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_row_has_the_same_bits_beside_any_number_of_others(
    kind: LinearKind, num_in: int, num_out: int, num_threads: int
) -> None:
    """A text must not depend on its neighbours in the batch: the first and the last of 80
    rows, in packs of 1 … 64, equal the row alone. One neighbour is enormous; with one scale per
    tensor it would wipe out the others."""
    layer = make(kind, num_in, num_out)
    rows = randn(80, num_in)
    rows[1] *= 1e4
    with threads(num_threads):
        alone = torch.cat([layer(rows[number : number + 1]) for number in range(80)])
        for num_rows in range(1, 65):
            assert torch.equal(layer(rows[:num_rows]), alone[:num_rows]), num_rows
            assert torch.equal(layer(rows[-num_rows:]), alone[-num_rows:]), num_rows


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [pytest.param("packed", 1e-5, marks=needs_packed_linears), ("int8", 0.06), ("portable", 0.0)],
)
@pytest.mark.parametrize("bias", [False, True])
def test_every_kind_computes_the_same_layer(kind: LinearKind, tolerance: float, bias: bool) -> None:
    """Within its precision each seam is the stock linear layer, bias included, for any leading
    dimensions, and it keeps the dtype of its input."""
    stock, layer = make("portable", 192, 96, bias), make(kind, 192, 96, bias)
    rows = randn(2, 3, 192)
    out = layer(rows)
    assert out.shape == (2, 3, 96)
    assert out.dtype == rows.dtype
    assert (out - stock(rows)).abs().max() <= tolerance


@pytest.mark.usefixtures("int8_everywhere")
def test_all_linears_below_a_module_are_replaced_and_nothing_else() -> None:
    """None is overlooked: one stock layer would be enough to break the claim on bits."""
    tree = nn.ModuleDict(
        {"a": nn.Linear(4, 4), "b": nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "c": nn.LayerNorm(4)}
    )
    replace_linears(tree, "int8")
    kinds = [type(module) for module in tree.modules()]
    assert kinds.count(Int8Linear) == 2
    assert nn.Linear not in kinds
    assert nn.LayerNorm in kinds


@needs_packed_linears
def test_int8_is_for_large_layers_and_no_layer_stays_stock() -> None:
    """Both kinds keep a row's bits, so their mixture does. Siblings count as the one product that
    they become."""
    heads = {"q_proj": 384, "k_proj": 192, "v_proj": 192}
    tree = nn.ModuleDict({name: nn.Linear(384, size) for name, size in heads.items()})
    tree["o_proj"] = nn.Linear(384, 384)
    replace_linears(tree, "int8")
    kinds = [type(module) for module in tree.modules()]
    assert (kinds.count(Int8Linear), kinds.count(PackedLinear)) == (1, 1)
    assert type(tree["o_proj"]) is PackedLinear
    assert nn.Linear not in kinds


def test_only_small_int8_layers_of_hosts_that_pack_change_their_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without oneDNN the alternative would be a stock layer, which keeps no bits."""
    small, large = nn.Linear(64, 64), nn.Linear(1_000, 500)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert [suited(each, "int8") for each in (small, large)] == ["packed", "int8"]
    for kind in ("packed", "portable"):
        assert suited(small, kind) == kind  # type: ignore[arg-type]
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert suited(small, "int8") == "int8"


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(-(2.0**21), 2.0**21, width=32), min_size=1, max_size=40))
def test_many_numbers_are_rounded_like_few(numbers: list[float]) -> None:
    """Halves included, which go to the even neighbour: a row's digits must not depend on how many
    rows lie beside it."""
    rows = torch.tensor(numbers)
    for each in (rows, rows.round() + 0.5):
        many = each.repeat(_ROUND_ALONE // len(numbers) + 1)
        assert many.numel() > _ROUND_ALONE
        assert torch.equal(_round(many)[: len(numbers)], each.round())


@needs_packed_linears
def test_a_packed_layer_keeps_no_second_copy_of_its_weights() -> None:
    """The original is freed at load; else a model would take twice its memory."""
    layer = make("packed", 64, 32)
    assert isinstance(layer, PackedLinear)
    assert list(layer.parameters()) == []
    assert not any(isinstance(held, nn.Parameter) for held in vars(layer).values())
