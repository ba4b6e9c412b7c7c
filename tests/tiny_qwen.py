"""A tiny random checkpoint of the Qwen2 type, in the form that real ones have on disk.

It has what tiny models of the tests leave out: a byte-level tokenizer with merges, trained on this
project's pages, a ChatML template, two end tokens, and more rows than the tokenizer has ids.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from tests.blocks import ROOT

END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
NUM_IDS = 700
NUM_ROWS = 768
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_tiny_qwen(folder: Path, seed: int = 1) -> None:
    """Write the checkpoint. Equal seeds give equal weights."""
    tokenizer = _tokenizer()
    ends = [tokenizer.token_to_id(name) for name in (END, END_OF_TEXT)]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END_OF_TEXT)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=NUM_ROWS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4_096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ends[0],
    )
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(parameter.mean() + 0.1 * noise)
            elif "embed" in name:
                parameter.copy_(0.3 * noise)
                parameter[ends[0]] *= 2.0  # so that most texts come to an end
            else:
                parameter.copy_(noise / parameter.shape[1] ** 0.5)
    model.generation_config = GenerationConfig(eos_token_id=ends)
    model.save_pretrained(folder)


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_IDS,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train([str(path) for path in sorted((ROOT / "docs").glob("*.md"))], trainer)
    return tokenizer


if __name__ == "__main__":
    save_tiny_qwen(Path(sys.argv[1]))
