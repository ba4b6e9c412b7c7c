"""Tiny random decoders, checkpoints and sorted drafts: real architectures, made in milliseconds.

Weights are drawn in float32 with a scale that makes next-token distributions neither flat nor
certain, and every norm weight and bias is off its default, so that leaving one out is seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from s2d_ray.models.attention import IMPLEMENTATION
from s2d_ray.models.grammar import Vocabulary
from s2d_ray.models.linear import LinearKind, replace_linears
from s2d_ray.models.sorted_draft import DraftNetwork, cut_draft
from s2d_ray.models.text import Text

SPECIALS = ("<|end|>", "<|start|>")
# The bytes of all printable ASCII characters, of a space, of a newline and of "ü".
ALPHABET = (*(chr(code) for code in range(33, 127)), "Ġ", "Ċ", "Ã", "¼")
VOCAB_SIZE = len(SPECIALS) + len(ALPHABET)
EOS = 0
MAX_POSITIONS = 2048
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many torch threads. One is quickest for tiny products, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tiny_config(family: str = "llama", layers: int = 6) -> PretrainedConfig:
    """Shapes of a tiny decoder: grouped attention with two query heads per key head."""
    config: PretrainedConfig = AutoConfig.for_model(
        family,
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=None,
    )
    return config


def tiny_decoder(
    family: str = "llama",
    dtype: torch.dtype = torch.float64,
    layers: int = 6,
    seed: int = 0,
    *,
    linear: LinearKind = "portable",
    attention: str = IMPLEMENTATION,
) -> Any:
    """A random causal LM in eval mode. Equal arguments give equal weights."""
    config = tiny_config(family, layers)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    _randomise(model, seed)
    model = model.to(dtype).eval().requires_grad_(False)
    replace_linears(model, linear)
    return model


def _randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                centre = 1.0 if "norm" in name else 0.0
                parameter.copy_(centre + 0.2 * noise)
            elif "embed" in name:
                parameter.copy_(noise)
            else:
                scale = 2.0 if "lm_head" in name else 1.0
                parameter.copy_(scale * noise / parameter.shape[1] ** 0.5)


def tiny_tokenizer() -> Tokenizer:
    """One token per byte of a small alphabet; "ü" takes two. Other bytes are dropped."""
    words = {word: number for number, word in enumerate((*SPECIALS, *ALPHABET))}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def save_tiny_tokenizer(folder: Path) -> None:
    """Tokenizer, chat template and end token of a tiny checkpoint."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), eos_token=SPECIALS[EOS])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


@cache
def tiny_text() -> Text:
    """The text of every tiny checkpoint."""
    with TemporaryDirectory() as folder:
        save_tiny_tokenizer(Path(folder))
        return Text(Path(folder))


@cache
def tiny_vocabulary() -> Vocabulary:
    """The tokens of every tiny checkpoint, for grammars."""
    return Vocabulary(tiny_text(), VOCAB_SIZE)


def tiny_checkpoint(folder: Path, family: str = "llama", *, layers: int = 6, seed: int = 0) -> Path:
    """Save `tiny_decoder(family, float32, layers, seed)` with its tokenizer; -> the folder."""
    model = tiny_decoder(family, torch.float32, layers, seed)
    model.generation_config = GenerationConfig(eos_token_id=EOS)
    model.save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder


def tiny_draft_network(
    decoder: Any,
    exit_layers: Sequence[int] = (2, 4, 6),
    head_ids: Sequence[int] = tuple(range(VOCAB_SIZE)),
    cache_tokens: int = 1024,
) -> DraftNetwork:
    """A sorted draft cut from `decoder`, whose linears must be stock, in the decoder's dtype."""
    draft = cut_draft(decoder, head_ids, exit_layers)
    draft = draft.to(decoder.dtype).eval().requires_grad_(False)
    draft.split()
    return DraftNetwork(draft, cache_tokens)
