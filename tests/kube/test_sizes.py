"""The table of sizes in the documents is what the engines reckon with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from s2d_ray.config import Precision
from s2d_ray.kube.chart_files import CHART
from s2d_ray.kube.values import ChartValues
from s2d_ray.models.kv_budget import MIB, VALUE_BYTES, TokenSize, tokens_in

PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"
GB = 10**9

SHAPES = {
    "SmolLM2-135M": ("quickstart", "smollm2-135m", 134_515_008, TokenSize(30, 3, 64, 576)),
    "Llama-3.2-1B, the draft": ("gpu", "", 1_235_814_400, TokenSize(16, 8, 64, 2_048, 2)),
    "Llama-3.1-8B": ("gpu", "llama-8b", 8_030_261_248, TokenSize(32, 8, 128, 4_096)),
    "Llama-3.3-70B": ("gpu", "llama-70b", 70_553_706_496, TokenSize(80, 8, 128, 8_192)),
}
"""As the models' cards say: preset, target in it or the draft, parameters, shape of a token."""


def row(name: str) -> str:
    """The row of the table for one model."""
    preset, target, num_parameters, shape = SHAPES[name]
    values = yaml.safe_load((CHART / "presets" / f"{preset}.yaml").read_text())
    config = ChartValues.model_validate(values).config
    engine = config.targets[target] if target else config.draft
    assert engine is not None
    kv_cache_mib, token_bytes = engine.kv_cache_mib, shape.num_bytes(engine.precision)
    weights = num_parameters * weight_bytes(engine.precision)
    cells = (
        name,
        engine.precision,
        f"{weights / GB:.1f} GB",
        f"{token_bytes / 1_000:.0f} kB",
        f"{kv_cache_mib:,}",
        f"{tokens_in(kv_cache_mib, token_bytes):,}",
        f"{(weights + kv_cache_mib * MIB) / GB:.1f} GB",
    )
    return f"| {' | '.join(cells)} |"


def weight_bytes(precision: Precision) -> int:
    assert precision != "int8", "its smaller layers stay in float32"
    return VALUE_BYTES[precision]


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_of_the_table_is_what_the_engines_reckon_with(name: str) -> None:
    assert row(name) in PAGE.read_text().splitlines(), row(name)


@pytest.mark.parametrize("preset", ["quickstart", "multi-tenant"])
def test_a_pod_of_processors_has_memory_for_its_engines(preset: str) -> None:
    """All targets of a preset in one pod: weights as float32, caches, 1.1 GB for what is beside."""
    values = yaml.safe_load((CHART / "presets" / f"{preset}.yaml").read_text())
    config = ChartValues.model_validate(values).config
    weights = SHAPES["SmolLM2-135M"][2] * VALUE_BYTES["float32"]
    needed = sum(
        weights + target.kv_cache_mib * MIB + 1.1 * GB for target in config.targets.values()
    )
    [placement] = values["placements"].values()
    limit = int(placement["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert needed < limit
