"""How many replicas a target should have, from what waits and runs there. Pure and deterministic.

Serve asks it about once every 0.1 s and adds what takes time: the mean over the look-back, the
delays and the factors. A replica that carries exactly `per_replica` stays as it is; with more the
count grows, with less it shrinks, never out of its bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

ROUNDING = 1e-6
"""Of a replica: so little more than fits is the arithmetic's, and no reason for another one."""


class ScaleBy(StrEnum):
    """What is counted: requests, whatever their length, or the tokens that are still to do."""

    REQUESTS = "requests"
    TOKENS = "tokens"


@dataclass(frozen=True)
class TargetLoad:
    """What one target has to do, all replicas together. Means over time are fine.

    running: requests in replicas, those in the engines' own queues too. queued: on their way, no
    replica has taken them. held: waiting in the ledger. outstanding_tokens: prompt tokens not yet
    read and output tokens not yet written of those that run, at most. held_tokens: of those held.
    """

    running: float = 0.0
    queued: float = 0.0
    held: float = 0.0
    outstanding_tokens: float = 0.0
    held_tokens: float = 0.0

    @property
    def requests(self) -> float:
        """All of them, each once."""
        return self.running + self.queued + self.held

    @property
    def tokens(self) -> float:
        """All that are known; those of queued requests are not."""
        return self.outstanding_tokens + self.held_tokens


@dataclass(frozen=True)
class ScalingRule:
    """How many replicas a load should have. per_replica: requests or tokens, as `by` says."""

    by: ScaleBy
    per_replica: float
    min_replicas: int
    max_replicas: int


def wanted_replicas(load: TargetLoad, rule: ScalingRule) -> int:
    """Replicas that carry a load at `per_replica` each, rounded up, within the bounds.

    While there is a request at all, at least one.
    """
    carried = load.requests if rule.by is ScaleBy.REQUESTS else load.tokens
    wanted = math.ceil(carried / rule.per_replica - ROUNDING)
    if load.requests > 0.0:
        wanted = max(wanted, 1)
    return min(max(wanted, rule.min_replicas), rule.max_replicas)
