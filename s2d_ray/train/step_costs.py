"""What a token costs: the time of a draft step to each exit beside a target's step of one row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from s2d_ray.errors import RunError
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Run, RunAllocator
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork

CONTEXT = 200
"""Tokens before the timed one."""

ROUNDS = 15


@dataclass(frozen=True)
class StepCosts:
    """Medians over rounds. draft_ms, of_target: for each exit as the only one that is asked; the
    latter is the ratio to the target's step of the same round."""

    draft_ms: tuple[float, ...]
    of_target: tuple[float, ...]
    target_ms: float


def step_costs(network: DraftNetwork, model: RaggedModel) -> StepCosts:
    """Time steps of one row in turn, so that a busy moment of the host slows all of them alike.

    Raises RunError if a cache is too small.
    """
    mine, other = _reserve(network.pool.allocator), _reserve(model.pool.allocator)
    ids = [(37 * index + 11) % model.vocab_size for index in range(CONTEXT + 1)]
    before, row = [Segment(mine, 0, CONTEXT)], [Segment(mine, CONTEXT, 1)]
    for group in range(len(network.exit_layers)):
        network.run_group(group, ids[:-1], before)
    model.forward(ids[:-1], [Segment(other, 0, CONTEXT)], [])

    def draft_step(exit_: int) -> None:
        for group in range(exit_ + 1):
            hidden = network.run_group(group, ids[-1:], row)
        network.exit_logits(exit_, hidden)

    def target_step() -> None:
        model.forward(ids[-1:], [Segment(other, CONTEXT, 1)], [0])

    steps: list[Callable[[], None]] = [target_step]
    steps += [partial(draft_step, exit_) for exit_ in range(len(network.exit_layers))]
    try:
        rounds = [[_time_ms(step) for step in steps] for _ in range(ROUNDS + 1)][1:]
    finally:
        network.pool.allocator.release(mine)
        model.pool.allocator.release(other)
    columns = list(zip(*rounds, strict=True))
    ratios = [[draft / times[0] for draft in times[1:]] for times in rounds]
    return StepCosts(
        tuple(median(column) for column in columns[1:]),
        tuple(median(column) for column in zip(*ratios, strict=True)),
        median(columns[0]),
    )


def _time_ms(step: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - started_s)


def _reserve(allocator: RunAllocator) -> Run:
    run = allocator.reserve(CONTEXT + 1)
    if run is None:
        raise RunError(f"the cache is too small to time a step behind {CONTEXT} tokens")
    return run
