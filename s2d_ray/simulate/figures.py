"""What a run gave: by target and by tenant, as plain values."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from s2d_ray.simulate.pool import Pool
from s2d_ray.simulate.request import Request
from s2d_ray.simulate.service import Simulation

PERCENTILES = (50, 95, 99)
Values = dict[str, Any]


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The lowest value that so many percent do not exceed; None of nothing. values: sorted."""
    if not values:
        return None
    return values[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def figures(simulation: Simulation) -> Values:
    """All figures of a run that has come to its end."""
    requests = simulation.requests
    by_target: dict[str, list[Request]] = {name: [] for name in simulation.pools}
    by_tenant: dict[str, list[Request]] = {}
    for request in requests:
        by_target[request.arrival.target].append(request)
        by_tenant.setdefault(request.arrival.tenant, []).append(request)
    duration_s = simulation.clock.now_s
    written = sum(_written(request) for request in requests)
    return {
        "duration_s": duration_s,
        "requests": len(requests),
        "targets": {
            name: {
                **_target(by_target[name], duration_s),
                **_replicas(pool, duration_s),
            }
            for name, pool in simulation.pools.items()
        },
        "tenants": {
            name: _tenant(by_tenant[name], written)
            for name in sorted(by_tenant, key=lambda name: -sum(map(_written, by_tenant[name])))
        },
    }


def replica_seconds(pool: Pool, until_s: float) -> dict[str, float]:
    """Seconds of all replicas in each state, added up."""
    ends = [*(count.time_s for count in pool.counts[1:]), until_s]
    sums = {"running": 0.0, "starting": 0.0, "draining": 0.0}
    for count, end_s in zip(pool.counts, ends, strict=True):
        for state in sums:
            sums[state] += getattr(count, state) * (end_s - count.time_s)
    return sums


def _target(requests: Sequence[Request], duration_s: float) -> Values:
    finished = sum(request.ended_s is not None for request in requests)
    refused = Counter(str(r.reason) for r in requests if r.reason is not None)
    return {
        "arrived": len(requests),
        "finished": finished,
        "refused": dict(sorted(refused.items())),
        "open": len(requests) - finished - refused.total(),
        "wait_s": _spread(request.wait_s for request in requests),
        "ttft_s": _spread(request.ttft_s for request in requests),
        "tpot_s": _spread(request.tpot_s for request in requests),
        "goodput_tokens_per_s": round(sum(map(_written, requests)) / duration_s, 3),
    }


def _replicas(pool: Pool, duration_s: float) -> Values:
    seconds = replica_seconds(pool, duration_s)
    running = [count.running for count in pool.counts]
    steps = sum(replica.num_steps for replica in pool.replicas)
    speculated = sum(replica.num_speculated for replica in pool.replicas)
    return {
        "replicas": {
            "min": min(running),
            "mean": round(seconds["running"] / duration_s, 3),
            "max": max(running),
            "hours": round(sum(seconds.values()) / 3600, 4),
        },
        "speculated_steps": round(speculated / steps, 4) if steps else 0.0,
    }


def _tenant(requests: Sequence[Request], all_written: int) -> Values:
    waits = sorted(request.wait_s for request in requests if request.wait_s is not None)
    written = sum(map(_written, requests))
    return {
        "arrived": len(requests),
        "refused": sum(request.reason is not None for request in requests),
        "wait_p95_s": _rounded(percentile(waits, 95)),
        "share": round(written / all_written, 4) if all_written else 0.0,
    }


def _written(request: Request) -> int:
    """Output tokens of a request that has finished."""
    return request.arrival.output_tokens if request.ended_s is not None else 0


def _spread(values: Iterable[float | None]) -> dict[str, float | None]:
    known = sorted(value for value in values if value is not None)
    spread = {f"p{percent}": percentile(known, percent) for percent in PERCENTILES}
    return {name: _rounded(value) for name, value in spread.items()}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
