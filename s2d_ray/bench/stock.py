"""The baselines: `transformers` itself, its continuous batching and its own speculation."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from s2d_ray.bench.alternate import Case
from s2d_ray.bench.figures import Written
from s2d_ray.errors import RunError
from s2d_ray.models.fused import FusedPart
from s2d_ray.models.int4 import Int4Linear
from s2d_ray.models.int8 import Int8Linear
from s2d_ray.models.linear import PackedLinear
from s2d_ray.models.loading import read_config

PAGES = 64
"""Pages of 256 tokens of the paged cache: room for 64 texts of the benchmark's length."""
BATCH_TOKENS = 1_024

NUM_GUESSES = 3
"""Guesses of a round; peers with the library's own schedule of many more gain nothing on a CPU."""


class Stock:
    """A model of `transformers` with SDPA, written with by `generate` and its kin.

    assistant: drafts for it in `assisted`.
    """

    def __init__(self, model: Any, assistant: Any) -> None:
        quieten()
        self.model = model
        self._assistant = assistant
        self._num_forwards = 0
        model.register_forward_pre_hook(self._count)

    def generate(self, case: Case) -> Written:
        """`generate`, one prompt after another."""
        return self._generate(case)

    def prompt_lookup(self, case: Case) -> Written:
        """`generate` with n-gram lookup in the text so far."""
        return self._generate(case, prompt_lookup_num_tokens=NUM_GUESSES)

    def assisted(self, case: Case) -> Written:
        """`generate` with guesses by the assistant."""
        return self._generate(case, assistant_model=self._assistant)

    def _generate(self, case: Case, **options: Any) -> Written:
        if case.temperature:
            options |= {"temperature": case.temperature, "top_p": case.top_p, "top_k": 0}
        if case.end_ids:
            options |= {"eos_token_id": list(case.end_ids)}
        texts: list[tuple[int, ...]] = []
        self._num_forwards = 0
        for index, prompt in enumerate(case.prompts):
            torch.manual_seed(case.sampling(index).seed)
            ids = torch.tensor([prompt], device=self.model.device)
            out: Any = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=case.num_tokens,
                do_sample=case.temperature > 0,
                **options,
            )
            texts.append(tuple(out[0, len(prompt) :].tolist()))
        # One token comes of every forward, whatever was guessed right comes on top.
        rounds, num_tokens = self._num_forwards, sum(map(len, texts))
        return Written(tuple(texts), accepted=num_tokens - rounds, rounds=rounds)

    def _count(self, *_: object) -> None:
        self._num_forwards += 1

    def continuous(self, case: Case) -> Written:
        """`generate_batch`: all prompts at once by paged attention, greedily.

        One manager serves all calls, so its start is not timed. Prompts are computed anew in every
        call, as in our engine, whose prefix cache is off here.
        """
        results = self.model.generate_batch(
            [list(prompt) for prompt in case.prompts],
            generation_config=GenerationConfig(
                eos_token_id=-1, pad_token_id=0, max_new_tokens=case.num_tokens, do_sample=False
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                num_blocks=PAGES, max_batch_tokens=BATCH_TOKENS, allow_block_sharing=False
            ),
            persistent_manager=True,
        )
        if len(results) != len(case.prompts) or any(each.error for each in results.values()):
            raise RunError("transformers' continuous batching did not write all texts")
        return Written(tuple(tuple(each.generated_tokens) for each in results.values()))

    def close(self) -> None:
        """End what continuous batching keeps running."""
        self.model.destroy_cached_continuous_batching_manager()


def quieten() -> None:
    """Keep the library's notes off the terminal."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)


def load_stock(folder: Path, assistant_layers: int) -> Stock:
    """A checkpoint in float32 on the CPU with stock linears; its first layers are the assistant."""
    quieten()
    return Stock(_load(folder, None), _load(folder, assistant_layers))


def _load(folder: Path, num_layers: int | None) -> Any:
    """The checkpoint, or its first layers."""
    config: Any = copy.deepcopy(read_config(folder))
    if num_layers is not None:
        _cut(config, num_layers)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return _plainly(model.eval().requires_grad_(False))


WHOLE = (nn.Linear, nn.Embedding, PackedLinear, Int8Linear, Int4Linear, FusedPart)
"""Parts that two models share, weights and all."""


def twin(decoder: Any, num_layers: int | None = None) -> Any:
    """A decoder of ours, or its first layers, with stock attention: the same weights in memory.

    Linear layers are shared too, so it multiplies as the original does. Not both at a time.
    Attention is SDPA, or eager in families for which the library has no other.
    """
    shared = [*decoder.parameters(), *decoder.buffers()]
    shared += [part for part in decoder.modules() if isinstance(part, WHOLE)]
    model: Any = copy.deepcopy(decoder, {id(each): each for each in shared})
    if num_layers is not None:
        model.model.layers = model.model.layers[:num_layers]
        _cut(model.config, num_layers)
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    return _plainly(model)


def _cut(config: Any, num_layers: int) -> None:
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:num_layers]


def _plainly(model: Any) -> Any:
    """No habits of the checkpoint's: ends are the case's, drafts are as many in every round."""
    model.generation_config = GenerationConfig(
        pad_token_id=0, num_assistant_tokens=NUM_GUESSES, num_assistant_tokens_schedule="constant"
    )
    return model
