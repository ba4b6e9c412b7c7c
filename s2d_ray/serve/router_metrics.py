"""The metrics of a router: ends of requests as they come, sums of them once a second. No Ray calls.

A counter costs Ray some microseconds for each number, so what requests come to is added up here and
told by `tell`; only histograms are told with each request.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from s2d_ray.observe.meter import FewNames, Meter, TargetGauges, Totals
from s2d_ray.observe.spans import Export, Span
from s2d_ray.serve.request_watch import RequestEnd

logger = logging.getLogger("ray.serve")

Labels = tuple[tuple[str, str], ...]


class RouterTeller:
    """Of one router: an `Observer`. most_tenants: with a label of their own. export: takes the
    spans of traced requests.
    """

    def __init__(self, meter: Meter, most_tenants: int, export: Export | None = None) -> None:
        self.traces = export is not None
        self._export = export
        self._meter = meter
        self._gauges = TargetGauges(meter)
        self._totals = Totals(meter)
        self._label_of = FewNames(most_tenants)
        self._sums: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self._open: Counter[str] = Counter()

    def begun(self, target: str) -> None:
        """See `Observer`."""
        self._open[target] += 1

    def failed_over(self, target: str) -> None:
        """Another replica has taken a stream over."""
        self._sums["failovers", (("target", target),)] += 1

    def ended(self, end: RequestEnd) -> None:
        """See `Observer`."""
        self._open[end.target] -= 1
        self._count(end)
        self._time(end)
        logger.info(
            "request %s: %d of %s; %s; %d + %d tokens, %.0f ms",
            end.request_id,
            end.status,
            end.target,
            end.why,
            end.prompt_tokens,
            end.output_tokens,
            1_000 * end.total_s,
            extra=fields_of(end),
        )
        if self._export is not None and end.traceparent:
            self._export(_span(end))

    def tell(self, replicas: Mapping[str, float]) -> None:
        """Tell what has come since the last time. replicas: running ones by target."""
        for (name, labels), total in tuple(self._sums.items()):
            self._totals.tell(name, total, **dict(labels))
        self._gauges.tell("open_requests", self._open)
        self._gauges.tell("replicas", replicas)

    def _count(self, end: RequestEnd) -> None:
        target, tenant = ("target", end.target), ("tenant", self._label_of(end.tenant))
        self._sums["requests", (tenant, target, ("status", str(end.status)))] += 1
        tokens = {
            "prompt": end.prompt_tokens,
            "cached": end.cached_tokens,
            "output": end.output_tokens,
        }
        for kind, count in tokens.items():
            self._sums["tokens", (tenant, target, ("kind", kind))] += count

    def _time(self, end: RequestEnd) -> None:
        self._duration("request", end.target, end.total_s)
        if end.queue_s is not None:
            self._duration("queue_wait", end.target, end.queue_s)
        if end.first_token_s is not None:
            self._duration("first_token", end.target, end.first_token_s)
            self._add("first_tokens", end.target, 1)
        if end.later_tokens:
            mean_s = end.later_token_s / end.later_tokens
            self._meter.tell("token_s", mean_s, target=end.target)
            self._add("later_tokens", end.target, end.later_tokens)
            self._add("later_token_seconds", end.target, end.later_token_s)

    def _duration(self, what: str, target: str, seconds: float) -> None:
        self._meter.tell(f"{what}_s", seconds, target=target)
        self._add(f"{what}_seconds", target, seconds)

    def _add(self, name: str, target: str, value: float) -> None:
        self._sums[name, (("target", target),)] += value


def fields_of(end: RequestEnd) -> dict[str, Any]:
    """What a log line tells of it, field by field; no word of its text, no key."""
    return {
        "request_id": end.request_id,
        "tenant": end.tenant,
        "target": end.target,
        "status": end.status,
        "prompt_tokens": end.prompt_tokens,
        "cached_tokens": end.cached_tokens,
        "output_tokens": end.output_tokens,
        "drafted_tokens": end.drafted_tokens,
        "accepted_tokens": end.accepted_tokens,
        "queue_ms": _ms(end.queue_s),
        "first_token_ms": _ms(end.first_token_s),
        "total_ms": _ms(end.total_s),
    }


def _span(end: RequestEnd) -> Span:
    ended_ns = time.time_ns()
    return Span(
        "request",
        end.traceparent,
        end.parent,
        ended_ns - round(1e9 * end.total_s),
        ended_ns,
        {name: value for name, value in fields_of(end).items() if value is not None},
        failed=end.status >= 500,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1_000 * seconds, 3)
