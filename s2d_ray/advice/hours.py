"""Whose replica-hours they were.

The rule: while n texts run on R replicas, each is charged min(1, R / n) of a replica. What no text
occupies is idle, and nobody's. So the shares of all tenants and the idle time sum to the hours that
there were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2d_ray.advice.records import Floats, Usage
from s2d_ray.config import TargetConfig
from s2d_ray.policy.scaling import ScaleBy, ScalingRule, TargetLoad, wanted_replicas

LEAST_BIN_S = 60.0
"""With `autoscaling` records do not say how many replicas there were. They are taken to be what the
scaling rule wants for the most texts of each `downscale_delay_s`, which is at least this."""


@dataclass(frozen=True)
class ReplicaHours:
    """Of one target. tenants: by name, charged for their texts; idle: the rest."""

    tenants: dict[str, float]
    idle: float

    @property
    def busy(self) -> float:
        """Charged to tenants."""
        return sum(self.tenants.values())

    @property
    def total(self) -> float:
        """All."""
        return self.busy + self.idle


def replica_hours(usage: Usage, config: TargetConfig, span_s: tuple[float, float]) -> ReplicaHours:
    """Of one target's records, over a span that holds them all."""
    began_s, ended_s = span_s
    scaling = config.autoscaling
    width_s = max(LEAST_BIN_S, scaling.downscale_delay_s if scaling else ended_s - began_s)
    num_bins = max(1, int(np.ceil((ended_s - began_s) / width_s)))
    bins_s = np.append(began_s + width_s * np.arange(num_bins), ended_s)
    edges_s, texts = texts_running(usage, bins_s)
    bin_of = np.minimum(((edges_s[:-1] - began_s) / width_s).astype(np.intp), num_bins - 1)
    if scaling is None:
        counts = np.array([float(config.num_replicas)])
    else:
        most = np.zeros(num_bins)
        np.maximum.at(most, bin_of, texts)
        rule = ScalingRule(
            ScaleBy.REQUESTS,
            scaling.carried_requests(config.max_batch),
            scaling.min_replicas,
            scaling.max_replicas,
        )
        counts = np.array([float(wanted_replicas(TargetLoad(running=n), rule)) for n in most])
    total = float((counts * np.diff(bins_s)).sum()) / 3600
    tenants = _charged(usage, edges_s, texts, counts[bin_of])
    return ReplicaHours(tenants, max(0.0, total - sum(tenants.values())))


def _charged(usage: Usage, edges_s: Floats, texts: Floats, replicas: Floats) -> dict[str, float]:
    """Hours by tenant. texts, replicas: [edges - 1], from each edge to the next."""
    charge = np.minimum(1.0, replicas / np.maximum(texts, 1.0))
    # What a text that runs from the first edge on would have been charged at each edge.
    passed_s = np.concatenate([[0.0], np.cumsum(charge * np.diff(edges_s))])
    ends, starts = (np.searchsorted(edges_s, at) for at in (usage.ends_s, usage.starts_s))
    charged_s = passed_s[ends] - passed_s[starts]
    return {
        str(name): float(charged_s[usage.tenants == name].sum()) / 3600
        for name in np.unique(usage.tenants)
    }


def texts_running(usage: Usage, cuts_s: Floats) -> tuple[Floats, Floats]:
    """Times at which the number of running texts changes, and the cuts [edges]; and the number from
    each of them to the next [edges - 1]."""
    times_s = np.concatenate([usage.starts_s, usage.ends_s, cuts_s])
    edges_s, where = np.unique(times_s, return_inverse=True)
    steps = np.repeat([1.0, -1.0, 0.0], [len(usage), len(usage), len(cuts_s)])
    changes = np.bincount(where, weights=steps, minlength=len(edges_s))
    return edges_s, np.cumsum(changes, dtype=np.float64)[:-1]
