"""Sibling layers that share one product: the same layers, whatever the order of the calls."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2d_ray.models.fused import FusedPart, SharedProduct
from s2d_ray.models.int8 import Int8Linear
from s2d_ray.models.linear import LinearKind, PackedLinear, make_linear, replace_linears

PACKS = torch.backends.mkldnn.is_available()
kinds = pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        pytest.param("packed", 1e-5, marks=pytest.mark.skipif(not PACKS, reason="no oneDNN")),
        ("int8", 0.0),
    ],
)
NAMES = ("q_proj", "k_proj", "v_proj")
pytestmark = pytest.mark.usefixtures("two_threads", "int8_everywhere")


def siblings(biases: tuple[bool, ...] = (True, False, True)) -> Any:
    torch.manual_seed(0)
    sizes = (64, 16, 24)
    layers = {
        name: nn.Linear(96, size, bias=bias)
        for name, size, bias in zip(NAMES, sizes, biases, strict=True)
    }
    return nn.ModuleDict(layers).requires_grad_(False)


def apart(module: Any, kind: LinearKind) -> dict[str, nn.Module]:
    """Each layer of `kind` by itself."""
    return {name: make_linear(module[name], kind) for name in NAMES}


@kinds
@pytest.mark.parametrize("biases", [(False,) * 3, (True,) * 3, (True, False, True)])
@pytest.mark.parametrize("num_rows", [1, 7])
def test_siblings_compute_what_each_computes_alone(
    kind: LinearKind, tolerance: float, biases: tuple[bool, ...], num_rows: int
) -> None:
    """Columns and biases go to the right layer, for any leading dimensions. int8 has a scale per
    column and sums of integers, so it is equal bit for bit."""
    module = siblings(biases)
    alone = apart(module, kind)
    replace_linears(module, kind)
    rows = torch.randn(1, num_rows, 96)
    for name in NAMES:
        out, expected = module[name](rows), alone[name](rows)
        assert out.shape == expected.shape
        assert (out - expected).abs().max() <= tolerance


@kinds
@pytest.mark.parametrize("order", list(itertools.permutations([*NAMES, "k_proj"])))
def test_no_order_of_calls_gives_a_result_of_another_input(
    kind: LinearKind, tolerance: float, order: tuple[str, ...]
) -> None:
    """Skipped and repeated layers, and another input in between."""
    module = siblings()
    alone = apart(module, kind)
    replace_linears(module, kind)
    first, second = torch.randn(2, 2, 96)
    for name, rows in zip((*order, *order), itertools.cycle([first, first, second]), strict=False):
        assert (module[name](rows) - alone[name](rows)).abs().max() <= tolerance


@kinds
def test_a_step_that_was_broken_off_leaves_nothing_for_the_next(
    kind: LinearKind, tolerance: float
) -> None:
    """A buffer may be filled anew for each step, and a step may fail behind its first layer."""
    module = siblings()
    alone = apart(module, kind)
    replace_linears(module, kind)
    buffer = torch.randn(2, 96)
    module["q_proj"](buffer)
    buffer.normal_()
    for name in NAMES:
        assert (module[name](buffer) - alone[name](buffer)).abs().max() <= tolerance


def test_a_step_multiplies_once_and_holds_nothing_afterwards() -> None:
    calls = []

    class Counted(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            calls.append(rows.shape)
            return rows

    shared = SharedProduct(Counted(), [2, 3])
    parts = [FusedPart(shared, number) for number in range(2)]
    rows = torch.arange(10.0).view(2, 5)
    held = weakref.ref(rows)
    for _ in range(2):
        assert torch.equal(torch.cat([part(rows) for part in parts], -1), rows)
    assert len(calls) == 2
    del rows
    assert held() is None


@kinds
def test_siblings_are_freed_and_leave_no_stock_layer(kind: LinearKind, tolerance: float) -> None:
    """Memory must not double at load; a stock layer would end the claim on bits."""
    module = siblings()
    originals = [weakref.ref(module[name].weight) for name in NAMES]
    replace_linears(module, kind)
    gc.collect()
    assert not any(original() is not None for original in originals)
    found = [type(part) for part in module.modules()]
    assert nn.Linear not in found
    assert found.count(PackedLinear if kind == "packed" else Int8Linear) == 1


def test_stock_layers_and_lone_siblings_stay_apart() -> None:
    """Portable layers are those of the library; a layer without its siblings is a layer."""
    module = siblings()
    replace_linears(module, "portable")
    assert all(type(module[name]) is nn.Linear for name in NAMES)
    del module["v_proj"]
    replace_linears(module, "int8")
    assert all(type(module[name]) is Int8Linear for name in NAMES[:2])
