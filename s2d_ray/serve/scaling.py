"""Serve's autoscaler by our rule: what its controller knows as a `TargetLoad`. Loads no torch.

The controller gets the two functions by value, and imports what they use. It adds the look-back,
the delays and the factors by itself, and starts the first replica of a target that has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from s2d_ray.policy.scaling import ScaleBy, ScalingRule, TargetLoad, wanted_replicas

HELD_REQUESTS = "held_requests"
HELD_TOKENS = "held_tokens"
OUTSTANDING_TOKENS = "outstanding_tokens"


class Sample(Protocol):
    """A number that a replica told, and when: Unix seconds."""

    @property
    def timestamp(self) -> float: ...

    @property
    def value(self) -> float: ...


class Context(Protocol):
    """What of `ray.serve.config.AutoscalingContext` is looked at."""

    @property
    def total_running_requests(self) -> float: ...

    @property
    def total_queued_requests(self) -> float: ...

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...

    @property
    def raw_metrics(self) -> Mapping[str, Mapping[Any, Sequence[Sample]]] | None: ...

    @property
    def capacity_adjusted_min_replicas(self) -> int: ...

    @property
    def capacity_adjusted_max_replicas(self) -> int: ...

    @property
    def config(self) -> Any: ...


def by_requests(context: Context) -> tuple[int, dict[str, Any]]:
    """Replicas for the requests that run, queue or are held. -> and no state."""
    return _decide(context, ScaleBy.REQUESTS), {}


def by_tokens(context: Context) -> tuple[int, dict[str, Any]]:
    """Replicas for the tokens that are still to do. -> and no state."""
    return _decide(context, ScaleBy.TOKENS), {}


def load_of(context: Context) -> TargetLoad:
    """What runs and queues, as means over the look-back, and what the ledger holds by now.

    Every replica tells what is held for the whole target, so the newest value counts, not a sum.
    """
    outstanding = (context.aggregated_metrics or {}).get(OUTSTANDING_TOKENS, {})
    return TargetLoad(
        running=context.total_running_requests,
        queued=context.total_queued_requests,
        held=_newest(context, HELD_REQUESTS),
        outstanding_tokens=sum(outstanding.values()),
        held_tokens=_newest(context, HELD_TOKENS),
    )


def _decide(context: Context, by: ScaleBy) -> int:
    rule = ScalingRule(
        by,
        context.config.get_target_ongoing_requests(),
        context.capacity_adjusted_min_replicas,
        context.capacity_adjusted_max_replicas,
    )
    return wanted_replicas(load_of(context), rule)


def _newest(context: Context, metric: str) -> float:
    told = (context.raw_metrics or {}).get(metric, {})
    samples = [sample for series in told.values() for sample in series]
    return max(samples, key=lambda sample: sample.timestamp).value if samples else 0.0
