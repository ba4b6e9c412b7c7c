"""Putting an engine together from its config: used by the replicas, the bench and the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from s2d_ray.config import DraftConfig, TargetConfig
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.messages import ChatPrompt, GenerateRequest, Prompt, TextPrompt, Tokens
from s2d_ray.engine.protocol import Proposer
from s2d_ray.engine.steering import Steering
from s2d_ray.engine.target_batch import Limits, TargetBatch
from s2d_ray.engine.target_engine import EngineStatus, Figures, Publish
from s2d_ray.engine.target_loop import TargetLoop, Turn
from s2d_ray.errors import ModelError, RequestError
from s2d_ray.models import draft_files
from s2d_ray.models.fingerprint import fingerprint_of_target
from s2d_ray.models.grammar import Vocabulary
from s2d_ray.models.kv_budget import BLOCK, LEAST_TOKENS, TokenSize, shortage, tokens_in
from s2d_ray.models.loading import choose_device, load_target_decoder, read_config
from s2d_ray.models.ragged import RaggedModel, packing_keeps_bits
from s2d_ray.models.text import Text, TextStream


@dataclass(frozen=True)
class Target:
    """Our own `TargetEngine`: a loaded target with its batch and its loop."""

    text: Text
    model: RaggedModel
    batch: TargetBatch
    loop: TargetLoop
    bitwise_exact: bool

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The target's tokens for grammars, made when the first one is asked for."""
        return Vocabulary(self.text, self.model.vocab_size)

    def prepare(self, request: GenerateRequest) -> Callable[[Publish], None]:
        """See `TargetEngine`."""
        sampling = request.sampling
        prompt_ids = self._encode(request.prompt)
        self._checked([token_id for token_id, _ in sampling.logit_bias], "logit_bias")
        self._checked(sampling.stop_token_ids, "stop_token_ids")
        if request.resume is not None:
            self._checked(request.resume.token_ids, "resume")
        wanted = sampling.format
        grammar = None if wanted is None else self.vocabulary.start(wanted)
        return lambda publish: self.loop.submit(request, prompt_ids, publish, grammar)

    def abort(self, request_id: str) -> None:
        """See `TargetEngine`."""
        self.loop.abort(request_id)

    def tokenize(self, prompt: Prompt) -> Tokens:
        """See `TargetEngine`."""
        ids = self._encode(prompt)
        texts = [self.text.token_bytes(token_id).decode(errors="replace") for token_id in ids]
        return Tokens(tuple(ids), tuple(texts), self.batch.limits.max_context)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """See `TargetEngine`."""
        return self.text.decode(self._checked(token_ids, "tokens"))

    def status(self) -> EngineStatus:
        """See `TargetEngine`."""
        return EngineStatus(
            self.bitwise_exact,
            self.batch.queue_depth,
            self.batch.outstanding_tokens,
            self.loop.silent_s,
            {**self.batch.counters, **self.loop.steering.counters},
            self.batch.fingerprint,
            self.loop.steering.state(),
            self._figures(),
        )

    def stop(self) -> None:
        """See `TargetEngine`."""
        self.loop.stop()

    def _figures(self) -> Figures:
        batch, num_waiting = self.batch, self.batch.num_waiting
        blocks = {
            "used": batch.num_used_blocks,
            "kept": batch.num_held_blocks,
            "total": batch.num_blocks,
        }
        return Figures(
            num_waiting=num_waiting,
            num_running=max(0, batch.queue_depth - num_waiting),  # the thread goes on meanwhile
            kv_tokens={state: BLOCK * count for state, count in blocks.items()},
            drafted=batch.guesses.drafted.copy(),
            accepted=batch.guesses.accepted.copy(),
            calibration_errors=batch.guesses.errors(),
            plans=self.loop.steering.plans(),
        )

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, ChatPrompt):
            return self.text.encode_chat(prompt.messages, prompt.tools)
        if isinstance(prompt, TextPrompt):
            return self.text.encode(prompt.text)
        return self._checked(prompt.ids, "prompt")

    def _checked(self, token_ids: Sequence[int], param: str) -> list[int]:
        """The ids, if the model has them all. Raises RequestError naming the first it lacks."""
        size = self.model.vocab_size
        foreign = next((token_id for token_id in token_ids if not 0 <= token_id < size), None)
        if foreign is not None:
            raise RequestError(f"token id {foreign} is none of this target's {size}", param)
        return list(token_ids)


def make_target(
    config: TargetConfig,
    folder: Path,
    proposer: Proposer,
    replica: str,
    *,
    turn: Turn = nullcontext,
    steering: Steering | None = None,
) -> Target:
    """Load a checkpoint as a target. Raises ModelError naming what cannot be used."""
    steering = steering or Steering()
    text = Text(folder)
    device = choose_device(config.device)
    cache_tokens = _cache_tokens(
        "kv_cache_mib", config, folder, max(config.max_context, LEAST_TOKENS)
    )
    decoder = load_target_decoder(folder, config.precision, device, config.num_gpus)
    model = RaggedModel(decoder, cache_tokens)
    if config.max_context > model.max_positions:
        raise ModelError(
            f"max_context: {config.max_context} is more than the {model.max_positions} positions "
            f"of {config.model}"
        )
    with turn():
        exact = packing_keeps_bits(model)
    limits = Limits(
        max_context=config.max_context,
        default_max_tokens=config.default_max_tokens,
        max_batch=config.max_batch,
        max_waiting=config.max_waiting,
        prefill_chunk=config.prefill_chunk,
        vocab_size=model.vocab_size,
        prefix_cache=config.prefix_cache,
    )
    batch = TargetBatch(
        limits,
        model.pool.allocator,
        text.eos_token_ids,
        lambda sampling: TextStream(text, sampling.stop, sampling.min_tokens),
        replica,
        fingerprint_of_target(config, folder, device, bitwise_exact=exact),
        steering.guesses,
    )
    loop = TargetLoop(
        batch, model, proposer, turn=turn, num_threads=config.num_threads, steering=steering
    )
    return Target(text, model, batch, loop, exact)


def make_draft(config: DraftConfig, folder: Path, *, turn: Turn = nullcontext) -> DraftLoop:
    """Load a sorted draft. Raises ModelError naming what cannot be used."""
    card = draft_files.read_card(folder)
    device = choose_device(config.device)
    cache_tokens = _cache_tokens("draft.kv_cache_mib", config, folder, BLOCK, card.exit_layers)
    network = draft_files.load_network(folder, config.precision, device, cache_tokens)
    engine = DraftEngine(
        network,
        card.eos_token_ids,
        prefill_chunk=config.prefill_chunk,
        max_debt=config.max_debt,
        idle_s=config.idle_s,
        run_ahead=config.run_ahead,
    )
    return DraftLoop(engine, turn=turn, num_threads=config.num_threads)


def _cache_tokens(
    key: str,
    config: TargetConfig | DraftConfig,
    folder: Path,
    num_needed: int,
    exit_layers: tuple[int, ...] = (),
) -> int:
    """Tokens that the budget holds. Raises ModelError if they are fewer than needed."""
    size = TokenSize.of(read_config(folder).to_dict(), exit_layers).num_bytes(config.precision)
    if trouble := shortage(config.kv_cache_mib, size, num_needed):
        raise ModelError(f"{key}: {trouble}")
    return tokens_in(config.kv_cache_mib, size)
