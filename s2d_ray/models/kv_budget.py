"""How many tokens a budget of bytes holds, read off a model's config. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2d_ray.config import Precision

BLOCK = 64
"""Positions per block; also the bucket of the attention seam (see `attention.py`)."""

LEAST_TOKENS = 4 * BLOCK
"""What the load-time check of a target computes: a text of three blocks beside one of one."""

MIB = 2**20

VALUE_BYTES: dict[Precision, int] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int8": 4,
    "int4": 4,
}
"""Bytes of one number in the cache; models with integer weights keep theirs in float32."""

_OWN_HEAD_DIM = ("gemma2", "gemma3_text", "qwen3")
"""Families whose heads are not by default the hidden size cut in equal parts."""


@dataclass(frozen=True)
class TokenSize:
    """What one token takes in a pool: keys and values of every layer, and hidden states.

    num_states: boundaries of a draft whose hidden states are kept; see `sorted_draft.py`.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    num_states: int = 0

    @classmethod
    def of(cls, model: Mapping[str, Any], exit_layers: tuple[int, ...] = ()) -> TokenSize:
        """Read off the content of a config.json; of a draft with such exits.

        Raises KeyError if the config leaves out what its family's own code would fill in.
        """
        hidden_size: int = model["hidden_size"]
        head_dim = model.get("head_dim")
        if head_dim is None:
            if model.get("model_type") in _OWN_HEAD_DIM:
                raise KeyError("head_dim")
            head_dim = hidden_size // model["num_attention_heads"]
        num_layers = exit_layers[-1] if exit_layers else model["num_hidden_layers"]
        num_states = max(0, len(exit_layers) - 1)
        return cls(num_layers, model["num_key_value_heads"], head_dim, hidden_size, num_states)

    def num_bytes(self, precision: Precision) -> int:
        """Bytes of one token."""
        numbers = 2 * self.num_layers * self.num_kv_heads * self.head_dim
        return (numbers + self.num_states * self.hidden_size) * VALUE_BYTES[precision]


def tokens_in(kv_cache_mib: int, token_bytes: int) -> int:
    """Tokens in the whole blocks that a budget holds."""
    return kv_cache_mib * MIB // (BLOCK * token_bytes) * BLOCK


def shortage(kv_cache_mib: int, token_bytes: int, num_tokens: int) -> str | None:
    """What is wrong if a budget does not hold one text of `num_tokens`; None if it does.

    To be told behind the name of the key.
    """
    held = tokens_in(kv_cache_mib, token_bytes)
    if held >= num_tokens:
        return None
    return (
        f"{kv_cache_mib} MiB hold {held:,} tokens; "
        f"{num_tokens:,} must fit, so give at least {needed_mib(num_tokens, token_bytes)}"
    )


def needed_mib(num_tokens: int, token_bytes: int) -> int:
    """The least budget that holds so many tokens of one text."""
    return -(-_in_blocks(num_tokens) * token_bytes // MIB)


def _in_blocks(num_tokens: int) -> int:
    return -(-num_tokens // BLOCK) * BLOCK
