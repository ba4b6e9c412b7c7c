"""The comparisons of `s2d bench engine`: which methods write which cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Protocol

from s2d_ray.bench.alternate import (
    Advance,
    Before,
    Case,
    Method,
    alternate,
    nothing,
    num_samples,
)
from s2d_ray.bench.figures import Sample
from s2d_ray.bench.ideal import Costs
from s2d_ray.bench.ours import Ours, fixed_exit, side_by_side
from s2d_ray.bench.rig import Parts, Rig
from s2d_ray.engine.messages import Mode
from s2d_ray.models.loading import choose_device

CROWDS = (1, 4, 8, 16)
PAIR_CROWD = 4
"""Texts that each of two targets writes at once."""

TIER0_MATCH = 3
"""Length of a match where the config's plan has tier 0 switched off."""

OFF, AUTO, FORCE = Mode.OFF, Mode.AUTO, Mode.FORCE


class Bar(Protocol):
    """Progress of one comparison after another."""

    def open(self, title: str, total: int) -> Advance: ...


@dataclass(frozen=True)
class Singles:
    """Texts one by one. costs: bare calls by (case, run), measured just before `force` ran."""

    samples: list[Sample]
    costs: Mapping[tuple[str, int], Costs]


def our_methods(rig: Parts) -> dict[str, Method]:
    """Plain decoding, and every way to speculate of ours; all must write the same ids."""
    plan, seat = rig.plan, rig.first
    exits = rig.exits
    return {
        "plain": seat.ours(plan, OFF),
        "auto": seat.ours(plan, AUTO, rig.draft),
        "force": seat.ours(plan, FORCE, rig.draft),
        **{
            f"exit_{layer}": seat.ours(fixed_exit(plan, depth, len(exits)), FORCE, rig.draft)
            for depth, layer in enumerate(exits)
        },
        # Without a draft, what is proposed comes from the text itself.
        "tier0": seat.ours(replace(plan, min_match=plan.min_match or TIER0_MATCH), AUTO),
    }


def write_singly(rig: Rig, bar: Bar) -> Singles:
    """Ours and the baselines at batch 1, greedy and sampled, with costs ahead of `force`."""
    methods = our_methods(rig) | {
        "generate": rig.stock.generate,
        "prompt_lookup": rig.stock.prompt_lookup,
        "assisted": rig.stock.assisted,
    }
    cases = [rig.greedy(), rig.sampled()]
    plan = rig.plan
    nodes = sum(plan.width_at(level) for level in range(plan.max_proposal))
    costs = {}

    def before(run: int, case: Case, method: str) -> None:
        if method == "force":
            context = round(mean(map(len, case.prompts))) + case.num_tokens // 2
            costs[case.name, run] = rig.meter.around(context, nodes, rig.scale.repeats)

    return Singles(_take(methods, cases, rig, bar, "one by one", before), costs)


def write_in_crowds(rig: Rig, bar: Bar) -> list[Sample]:
    """Plain decoding against continuous batching at several concurrencies."""
    methods: dict[str, Method] = {
        "plain": rig.first.ours(rig.plan, OFF),
        "continuous": rig.stock.continuous,
    }
    return _take(methods, [rig.crowd(size) for size in CROWDS], rig, bar, "crowds")


def write_for_two(rig: Rig, bar: Bar) -> list[Sample]:
    """Two targets at once, on one shared draft and on a private one each."""
    plan, first, second = rig.plan, rig.first, rig.second
    methods = {
        "private": side_by_side(
            [first.ours(plan, FORCE, rig.draft), second.ours(plan, FORCE, rig.private_draft)]
        ),
        "shared": side_by_side(
            [first.ours(plan, FORCE, rig.draft), second.ours(plan, FORCE, rig.draft)]
        ),
    }
    return _take(methods, [rig.crowd(PAIR_CROWD)], rig, bar, "two targets")


def write_by_actor(rig: Rig, bar: Bar, temp_dir: Path) -> list[Sample]:
    """The draft in a process of its own against the same draft in this one."""
    from s2d_ray.serve.lone_draft import lone_draft

    seat = rig.first
    num_gpus = int(choose_device(rig.draft_config.device).type == "cuda")
    with lone_draft(rig.draft_config, num_gpus, temp_dir) as send:
        methods: dict[str, Method] = {
            "in_process": seat.ours(rig.plan, FORCE, rig.draft),
            "actor": Ours(seat.target, seat.client, rig.plan, FORCE, send),
        }
        return _take(methods, [rig.greedy()], rig, bar, "draft actor")


def _take(
    methods: Mapping[str, Method],
    cases: list[Case],
    rig: Rig,
    bar: Bar,
    title: str,
    before: Before = nothing,
) -> list[Sample]:
    advance = bar.open(title, num_samples(methods, cases, rig.scale.num_runs))
    return alternate(methods, cases, rig.scale.num_runs, advance, before)
