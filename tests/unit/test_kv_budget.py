"""A budget in bytes: it holds what a pool of that many tokens takes, and a shortage is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2d_ray.config import DraftConfig, Precision, TargetConfig
from s2d_ray.engine.assemble import make_target
from s2d_ray.errors import ModelError
from s2d_ray.models.kv_budget import BLOCK, MIB, VALUE_BYTES, TokenSize, shortage, tokens_in
from s2d_ray.models.loading import compute_dtype
from s2d_ray.models.ragged import RaggedModel
from tests.targets import no_draft
from tests.tiny import FAMILIES, tiny_checkpoint, tiny_config, tiny_decoder, tiny_draft_network

SMOLLM2 = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
}


def pool_bytes(pool: Any) -> int:
    return sum(each.numel() * each.element_size() for each in (*pool._keys, *pool._values))


@pytest.mark.parametrize("precision", get_args(Precision))
def test_a_number_in_the_cache_is_as_wide_as_activations_are(precision: Precision) -> None:
    assert VALUE_BYTES[precision] == compute_dtype(precision).itemsize


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pool_takes_the_bytes_that_are_foretold(family: str) -> None:
    """Keys and values of a target's layers, with head sizes of the config or made of others."""
    size = TokenSize.of(tiny_config(family, 3).to_dict()).num_bytes("float32")
    model = RaggedModel(tiny_decoder(family, torch.float32, 3), 4 * BLOCK)
    assert pool_bytes(model.pool) == 4 * BLOCK * size


def test_the_hidden_states_of_a_draft_count_too() -> None:
    decoder = tiny_decoder("llama", torch.float32, 6)
    network = tiny_draft_network(decoder, (1, 2, 5), cache_tokens=2 * BLOCK)
    size = TokenSize.of(decoder.config.to_dict(), (1, 2, 5)).num_bytes("float32")
    states = network._states.numel() * network._states.element_size()
    assert states > 0
    assert pool_bytes(network.pool) + states == 2 * BLOCK * size


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_saved_config_leaves_out_is_not_guessed(family: str, tmp_path: Path) -> None:
    """A config.json tells the size of the whole config, or none."""
    tiny_config(family).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    whole = TokenSize.of(tiny_config(family).to_dict())
    assert TokenSize.of(saved) == whole
    for key in ("num_hidden_layers", "num_key_value_heads", "hidden_size"):
        with pytest.raises(KeyError, match=key):
            TokenSize.of({name: value for name, value in saved.items() if name != key})


def test_a_family_with_head_sizes_of_its_own_must_name_them() -> None:
    assert TokenSize.of({**SMOLLM2, "model_type": "llama"}).head_dim == 64
    with pytest.raises(KeyError, match="head_dim"):
        TokenSize.of({**SMOLLM2, "model_type": "gemma2"})


def test_the_default_budgets_hold_8192_tokens_of_the_quickstart() -> None:
    target, draft = TargetConfig(model="m"), DraftConfig(base="m")
    size = TokenSize.of(SMOLLM2).num_bytes("float32")
    assert tokens_in(target.kv_cache_mib, size) == 8_192
    draft_size = TokenSize.of(SMOLLM2, draft.exit_layers).num_bytes("float32")
    assert tokens_in(draft.kv_cache_mib, draft_size) == 8_192


@given(st.integers(1, 10_000), st.integers(1, 2 * MIB), st.integers(1, 200_000))
def test_the_number_that_a_shortage_names_is_the_least_that_will_do(
    mib: int, token_bytes: int, num_tokens: int
) -> None:
    told = shortage(mib, token_bytes, num_tokens)
    if told is None:
        assert tokens_in(mib, token_bytes) >= num_tokens
        return
    found = re.search(r"at least (\d+)$", told)
    assert found
    least = int(found[1])
    assert least > mib
    assert shortage(least, token_bytes, num_tokens) is None
    assert shortage(least - 1, token_bytes, num_tokens) is not None


def test_a_replica_whose_cache_holds_no_text_of_max_context_does_not_start(tmp_path: Path) -> None:
    """Said before any weight is loaded: there is none here."""
    folder = tiny_checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    config = TargetConfig(model=str(folder), device="cpu", kv_cache_mib=2, max_context=2_048)
    with pytest.raises(ModelError, match=r"^kv_cache_mib: 2 MiB hold .* at least 3$"):
        make_target(config, folder, no_draft(), replica="replica")
