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
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from s2d_ray.models import draft_files
from s2d_ray.models.attention import IMPLEMENTATION
from s2d_ray.models.draft_files import DraftCard
from s2d_ray.models.grammar import Vocabulary
from s2d_ray.models.linear import LinearKind, replace_linears
from s2d_ray.models.loading import cast_parameters
from s2d_ray.models.sorted_draft import DraftNetwork, cut_draft
from s2d_ray.models.text import Text, fingerprint_of

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


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, rope stretched, with biases": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 48,
        },
        "attention_bias": True,
        "mlp_bias": True,
    },
    "mistral": {"sliding_window": 40, "head_dim": 24},
    "qwen2": {},
    "qwen2 with windows": {
        "use_sliding_window": True,
        "sliding_window": 70,
        "max_window_layers": 1,
    },
    "qwen3": {"head_dim": 24},
    "gemma2": {
        "head_dim": 24,
        "query_pre_attn_scalar": 20,
        "sliding_window": 40,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "head_dim": 24,
        "query_pre_attn_scalar": 20,
        "sliding_window": 70,
        "final_logit_softcapping": 4.0,
        "tie_word_embeddings": True,
        # Not periodic: a layer group that read the types of other layers would be seen.
        "layer_types": [
            *("sliding_attention", "full_attention", "full_attention"),
            *("sliding_attention", "sliding_attention", "full_attention"),
        ],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0},
        },
    },
}
"""What a tiny config sets beyond its shapes; the first word of a name is the model type.

Windows and original rope lengths are shorter than the texts of the tests, and not multiples of 64.
"""


def _exact_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention written out in the dtype of its inputs; the masks are the library's own."""
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = torch.softmax(scores + attention_mask, -1)
    return (weights @ value).transpose(1, 2), None


AttentionInterface.register("exact", _exact_attention)
AttentionMaskInterface.register("exact", eager_mask)


def reference_attention(family: str) -> str:
    """A stock attention that stays in float64: SDPA, or where it lacks soft caps one written out.

    (The library's eager softmax is float32 whatever the model.)
    """
    config = tiny_config(family, 1)
    return "exact" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def tiny_config(family: str = "llama", layers: int = 6) -> PretrainedConfig:
    """Shapes of a tiny decoder: grouped attention with two query heads per key head."""
    config: Any = AutoConfig.for_model(
        family.partition(" ")[0].rstrip(","),
        **{
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": MAX_POSITIONS,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": EOS,
            "pad_token_id": None,
            **FAMILIES[family],
        },
    )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return cast(PretrainedConfig, config)


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
    model = model.eval().requires_grad_(False)
    cast_parameters(model, dtype)
    model.config.dtype = dtype
    replace_linears(model, linear)
    return model


def _randomise(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # A family that scales its embeddings has them small; they are its head too.
    embedding = 1.0 / float(getattr(model.model.embed_tokens, "embed_scale", 1.0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                centre = parameter.mean()  # 1 for most norms, 0 for biases and the others
                parameter.copy_(centre + 0.2 * noise)
            elif "embed" in name:
                parameter.copy_(embedding * noise)
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


def whole_draft(
    folder: Path, checkpoint: Path, exits: tuple[int, ...], end_ids: tuple[int, ...] = (EOS,)
) -> Path:
    """A draft that is all of a `tiny_checkpoint`, or its first layers. -> `folder`"""
    card = DraftCard("base", exits, VOCAB_SIZE, fingerprint_of(checkpoint), end_ids)
    decoder = tiny_decoder(dtype=torch.float32)
    draft_files.write(folder, card, cut_draft(decoder, range(VOCAB_SIZE), exits))
    return folder


def tiny_draft_network(
    decoder: Any,
    exit_layers: Sequence[int] = (2, 4, 6),
    head_ids: Sequence[int] = tuple(range(VOCAB_SIZE)),
    cache_tokens: int = 1024,
) -> DraftNetwork:
    """A sorted draft cut from `decoder`, whose linears must be stock, in the decoder's dtype."""
    draft = cut_draft(decoder, head_ids, exit_layers).eval().requires_grad_(False)
    cast_parameters(draft, decoder.dtype)
    draft.split()
    return DraftNetwork(draft, cache_tokens)
