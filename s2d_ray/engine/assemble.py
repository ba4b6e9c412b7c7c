"""Putting an engine together from its config: used by the replicas, the bench and the tests."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from s2d_ray.config import DraftConfig, TargetConfig
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.protocol import Proposer
from s2d_ray.engine.target_engine import Limits, TargetEngine
from s2d_ray.engine.target_loop import TargetLoop, Turn
from s2d_ray.errors import ModelError
from s2d_ray.models import draft_files
from s2d_ray.models.loading import choose_device, load_target_decoder
from s2d_ray.models.ragged import RaggedModel, packing_keeps_bits
from s2d_ray.models.text import Text, TextStream


@dataclass(frozen=True)
class Target:
    """A loaded target, its loop not yet started."""

    text: Text
    model: RaggedModel
    engine: TargetEngine
    loop: TargetLoop
    bitwise_exact: bool


def make_target(
    config: TargetConfig,
    folder: Path,
    proposer: Proposer,
    replica: str,
    *,
    turn: Turn = nullcontext,
) -> Target:
    """Load a checkpoint as a target. Raises ModelError naming what cannot be used."""
    text = Text(folder)
    device = choose_device(config.device)
    model = RaggedModel(load_target_decoder(folder, config.precision, device), config.cache_tokens)
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
    )
    engine = TargetEngine(
        limits,
        model.pool.allocator,
        text.eos_token_ids,
        lambda stop: TextStream(text, stop),
        replica,
    )
    loop = TargetLoop(engine, model, proposer, turn=turn, num_threads=config.num_threads)
    return Target(text, model, engine, loop, exact)


def make_draft(config: DraftConfig, folder: Path, *, turn: Turn = nullcontext) -> DraftLoop:
    """Load a sorted draft. Raises ModelError naming what cannot be used."""
    card = draft_files.read_card(folder)
    device = choose_device(config.device)
    network = draft_files.load_network(folder, config.precision, device, config.cache_tokens)
    engine = DraftEngine(
        network,
        card.eos_token_ids,
        prefill_chunk=config.prefill_chunk,
        max_debt=config.max_debt,
        idle_s=config.idle_s,
    )
    return DraftLoop(engine, turn=turn, num_threads=config.num_threads)
