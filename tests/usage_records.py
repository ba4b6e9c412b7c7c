"""Usage records by hand and by the simulator's traces, for tests of advice and the back-test."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import numpy as np

from s2d_ray.advice.forecast import DAY, HOUR_S, Hourly
from s2d_ray.policy.usage import UsageRecord
from s2d_ray.simulate.traces import DAY_S, Caps, Kind, Mix, draw_trace
from s2d_ray.simulate.usage import BEGINS_S

MIX = Mix({"t": Caps(2_048, 256)}, ["a"])


def record(
    start_s: float = 0.0,
    run_s: float = 1.0,
    *,
    tenant: str = "a",
    target: str = "small",
    tokens: int = 10,
    drafted: int = 0,
    accepted: int = 0,
) -> UsageRecord:
    """A request that waited for nothing. start_s: behind `BEGINS_S`."""
    return UsageRecord(
        ended_s=BEGINS_S + start_s + run_s,
        request_id="r",
        tenant=tenant,
        key_id="k",
        target=target,
        status=200,
        reserved_tokens=100,
        prompt_tokens=2 * tokens,
        completion_tokens=tokens,
        drafted_tokens=drafted,
        accepted_tokens=accepted,
        total_ms=1e3 * run_s,
    )


def guessed(chances: Iterable[float], seed: int) -> list[UsageRecord]:
    """Requests one after another, of 40 guesses each, of which so many are right in the mean; texts
    differ, so guesses of one text are alike."""
    draw = random.Random(seed)
    records = []
    for place, chance in enumerate(chances):
        own = min(1.0, max(0.0, chance + draw.uniform(-0.2, 0.2)))
        accepted = sum(draw.random() < own for _ in range(40))
        records.append(record(2.0 * place, drafted=40, accepted=accepted))
    return records


def simulated_days(per_s: Sequence[float], seed: int) -> Hourly:
    """Requests by hour of diurnal days of `s2d simulate`, each with its own mean rate."""
    hours = [
        _day(rate, seed * 1_000 + number) for number, rate in enumerate(per_s)
    ]  # each its own draw
    return Hourly(BEGINS_S, np.concatenate(hours))


def _day(per_s: float, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    arrivals = draw_trace(Kind.DIURNAL, MIX, duration_s=DAY_S, per_s=per_s, seed=seed)
    places = [int(arrival.at_s / HOUR_S) for arrival in arrivals]
    return np.bincount(places, minlength=DAY).astype(np.float64)
