"""The figures of a result, with the noise that it holds: what is compared, and what history keeps.

Names are stable: "target / plan / figure".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch

from s2d_ray.bench import spec_figures
from s2d_ray.bench.spec_figures import BASELINE, PEERS, Answered
from s2d_ray.report import shapes
from s2d_ray.report.noise import Estimate, Noise, Paired, Repeats
from s2d_ray.report.sources import Source

Z = 1.96
"""Ends of a 95 % interval, in standard errors."""


@dataclass(frozen=True)
class Figure:
    """One number. better: 1 if more is, -1 if less is, 0 if neither.

    noise: None where the result holds no spread of it. absolute: it is of one machine at one
    time, and no ratio of neighbours. ours: it is a plan of this project's.
    """

    name: str
    value: float
    better: int = 1
    noise: Noise | None = None
    absolute: bool = False
    ours: bool = True


def figures_of(source: Source) -> list[Figure]:
    """All figures of a result, in the order of its tables."""
    return list(_figures(source.result, source.answers))


@singledispatch
def _figures(result: shapes.Result, answers: Sequence[Answered]) -> Iterator[Figure]:
    raise NotImplementedError(type(result))


@_figures.register
def _(result: shapes.Spec, answers: Sequence[Answered]) -> Iterator[Figure]:
    for target, found in result.targets.items():
        of = [each for each in answers if each.target == target]
        yield _plain_speed(target, found.plain.tokens_per_second, of)
        for plan, one in found.plans.items():
            yield from _plan(target, plan, one.speedup.overall, one.mean_accepted_length, of)


@_figures.register
def _(result: shapes.Sweep, answers: Sequence[Answered]) -> Iterator[Figure]:
    for target, found in result.targets.items():
        of = [each for each in answers if each.target == target]
        yield _plain_speed(target, found.plain_tokens_per_second, of)
        for plan, one in found.by_plan.items():
            yield from _plan(target, plan, one.measured, one.mean_accepted_length, of)
        for size, ratio in found.by_concurrency.items():
            ends = found.concurrency_spread.get(size)
            noise = Repeats(ratio, *ends, runs=found.concurrency_runs) if ends else None
            yield Figure(f"{target} / {size} at once / over plain", ratio, 1, noise)


def _plain_speed(target: str, speed: float, of: Sequence[Answered]) -> Figure:
    name = f"{target} / plain / tokens per second"
    speeds: dict[object, float] = {e.question_id: e.answers[BASELINE].speed for e in of}
    return Figure(name, speed, 1, Paired(speeds) if of else None, absolute=True)


def _plan(
    target: str, plan: str, speedup: float, length: float, of: Sequence[Answered]
) -> Iterator[Figure]:
    ratios: dict[object, float] = {
        e.question_id: e.answers[plan].speed / e.answers[BASELINE].speed for e in of
    }
    lengths: dict[object, float] = {
        e.question_id: spec_figures.mean_accepted_length([e], plan) for e in of
    }
    ours = plan not in PEERS
    name = f"{target} / {plan}"
    yield Figure(f"{name} / over plain", speedup, 1, Paired(ratios) if of else None, ours=ours)
    noise = Paired(lengths) if of else None
    yield Figure(f"{name} / mean accepted length", length, 1, noise, ours=ours)


@_figures.register
def _(result: shapes.Calibrate, answers: Sequence[Answered]) -> Iterator[Figure]:
    for target, classes in result.targets.items():
        for task, one in classes.items():
            low, high = one.interval
            error = math.log(high / low) / (2 * Z)
            noise = Estimate(one.predicted_over_plain, error)
            name = f"{target} / {task}"
            yield Figure(f"{name} / predicted over plain", one.predicted_over_plain, 1, noise)
            yield Figure(f"{name} / on the other half", one.held_out_over_plain)
            for which, off in one.calibration_error.items():
                if off is not None:
                    yield Figure(f"{name} / calibration error of {which}", off, -1)


@_figures.register
def _(result: shapes.Evaluate, answers: Sequence[Answered]) -> Iterator[Figure]:
    for target, found in result.targets.items():
        for layers, one in found.exits.items():
            name = f"{target} / exit {layers}"
            guesses = sum(count for count, _, _ in one.reliability.get("0", []))
            noise = _share(one.agreement, guesses)
            yield Figure(f"{name} / agreement", one.agreement, 1, noise)
            for temperature, length in one.expected_accepted_length.items():
                yield Figure(f"{name} / accepted length at T = {temperature}", length)
            for temperature, off in one.calibration_error.items():
                yield Figure(f"{name} / calibration error at T = {temperature}", off, -1)
            yield Figure(f"{name} / of a target's step", one.cost.of_target_step, -1)


def _share(share: float, count: int) -> Estimate | None:
    """Of a share of so many guesses, as if each were drawn alone."""
    if not 0 < share < 1 or not count:
        return None
    return Estimate(share, math.sqrt((1 - share) / share / count))


@_figures.register
def _(result: shapes.Training, answers: Sequence[Answered]) -> Iterator[Figure]:
    for layers, share in result.of_exits("agreed").items():
        yield Figure(f"exit {layers} / agreement", share)
    for layers, loss in result.of_exits("loss").items():
        yield Figure(f"exit {layers} / held-out loss", loss, -1)


@_figures.register
def _(result: shapes.Vllm, answers: Sequence[Answered]) -> Iterator[Figure]:
    for size, ratio in result.plain_vs_vllm.items():
        noise = Repeats(ratio, *result.spread[size], runs=3)
        yield Figure(f"{size} at once / plain over vLLM", ratio, 1, noise)


@_figures.register
def _(result: shapes.Load, answers: Sequence[Answered]) -> Iterator[Figure]:
    for run in result.runs:
        name = f"{run.offered_per_s:g} a second"
        yield Figure(f"{name} / goodput", run.goodput_tokens_per_s, absolute=True)
        for what, of in (("TTFT", run.ttft_ms), ("TPOT", run.tpot_ms)):
            for percentile, ms in of.items():
                yield Figure(f"{name} / {what} {percentile}, ms", ms, -1, absolute=True)


@_figures.register
def _(result: shapes.Router, answers: Sequence[Answered]) -> Iterator[Figure]:
    rounds = int(result.card.get("rounds", 1))
    for case, by_clients in result.cases.items():
        for clients, cell in by_clients.items():
            noise = Repeats(*cell.ratio, runs=rounds)
            yield Figure(f"{case} / {clients} clients / over echo", cell.ratio[0], 1, noise)


@_figures.register
def _(result: shapes.Engine, answers: Sequence[Answered]) -> Iterator[Figure]:
    for key in ("plain_vs_generate", "actor_vs_in_process", "shared_vs_private"):
        value = getattr(result, key)
        if value is not None:
            yield Figure(key, value, 1, _repeats(result, key, None, value))
    for key in (
        *("plain_vs_continuous_batching", "speculation", "speculation_sampled"),
        "shares_of_ideal",
    ):
        for case, value in getattr(result, key).items():
            ours = case not in ("prompt_lookup", "assisted")
            noise = _repeats(result, key, case, value)
            yield Figure(f"{key} / {case}", value, 1, noise, ours=ours)
    for method, share in result.acceptance.items():
        yield Figure(f"acceptance / {method}", share)
    for rows, cost in result.forward_rows.items():
        yield Figure(f"forward_rows / {rows}", cost, -1)
    yield Figure("draft_rows_8_vs_1", result.draft_rows_8_vs_1, -1)


def _repeats(result: shapes.Engine, key: str, case: str | None, value: float) -> Repeats | None:
    ends = result.spread.get(key)
    if isinstance(ends, dict):
        ends = ends.get(case or "")
    return Repeats(value, *ends, runs=result.runs) if ends else None
