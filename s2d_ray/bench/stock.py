"""The baselines: `transformers` itself, its continuous batching and its own speculation."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from s2d_ray.bench.alternate import Case
from s2d_ray.bench.figures import Written
from s2d_ray.errors import RunError
from s2d_ray.models.loading import read_config

PAGES = 64
"""Pages of 256 tokens of the paged cache: room for 64 texts of the benchmark's length."""
BATCH_TOKENS = 1_024


class Stock:
    """A stock float32 checkpoint on the CPU with SDPA, written with by `generate` and its kin."""

    def __init__(self, folder: Path, assistant_layers: int) -> None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        self.model = _load(folder, None)
        self._assistant = _load(folder, assistant_layers)

    def generate(self, case: Case) -> Written:
        """`generate`, one prompt after another."""
        return self._generate(case)

    def prompt_lookup(self, case: Case) -> Written:
        """`generate` with n-gram lookup in the text so far."""
        return self._generate(case, prompt_lookup_num_tokens=3)

    def assisted(self, case: Case) -> Written:
        """`generate` with the target's own first layers as assistant."""
        return self._generate(case, assistant_model=self._assistant)

    def _generate(self, case: Case, **options: Any) -> Written:
        if case.temperature:
            options |= {"temperature": case.temperature, "top_p": case.top_p, "top_k": 0}
        texts = []
        for index, prompt in enumerate(case.prompts):
            torch.manual_seed(case.sampling(index).seed)
            ids = torch.tensor([prompt])
            out: Any = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=case.num_tokens,
                do_sample=case.temperature > 0,
                **options,
            )
            texts.append(tuple(out[0, len(prompt) :].tolist()))
        return Written(tuple(texts))

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


def _load(folder: Path, num_layers: int | None) -> Any:
    """The checkpoint, or its first layers. End tokens end nothing: all write the same number."""
    config: Any = copy.deepcopy(read_config(folder))
    if num_layers is not None:
        config.num_hidden_layers = num_layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:num_layers]
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        attn_implementation="sdpa",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model.eval().requires_grad_(False)
