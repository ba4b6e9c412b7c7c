"""What a token costs: the time of a draft step to each exit beside a target's step of one row."""

from __future__ import annotations

import random
from contextlib import ExitStack
from dataclasses import dataclass

from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork
from s2d_ray.models.stopwatch import CONTEXT, TargetCalls, draft_steps, time_in_turn

ROUNDS = 15


@dataclass(frozen=True)
class StepCosts:
    """Medians over rounds. draft_ms: to each exit, those on the way asked too. of_target: the same
    in steps of the target."""

    draft_ms: tuple[float, ...]
    of_target: tuple[float, ...]
    target_ms: float


def step_costs(network: DraftNetwork, model: RaggedModel) -> StepCosts:
    """Time steps of one row in turn, so that a busy moment of the host slows all of them alike.

    Raises ModelError if a cache is too small.
    """
    with ExitStack() as stack:
        target = TargetCalls(model, stack, CONTEXT).forwards([(1, 1)])
        draft = draft_steps(network, model.vocab_size, stack, CONTEXT, (1,))
        calls = {"target": target[1, 1]} | {layers: draft[layers, 1] for layers, _ in draft}
        found = time_in_turn(calls, ROUNDS, random.Random(0))
    steps_s = [found[layers] for layers in network.exit_layers]
    return StepCosts(
        tuple(1e3 * seconds for seconds in steps_s),
        tuple(seconds / found["target"] for seconds in steps_s),
        1e3 * found["target"],
    )
