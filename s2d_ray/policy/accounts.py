"""The account of one tenant: its buckets, and how many of its requests run and wait."""

from __future__ import annotations

from collections.abc import Mapping

from s2d_ray.policy.buckets import Bucket
from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.limits import SHORTEST_RETRY_S, Allowance, Limits, Reason

REQUESTS, TOKENS = "requests", "tokens"
_REASONS = {REQUESTS: Reason.REQUESTS_PER_MINUTE, TOKENS: Reason.TOKENS_PER_MINUTE}


class Account:
    """What a tenant has used and may use. num_running counts texts, num_waiting requests."""

    def __init__(self, limits: Limits, now_s: float, levels: Mapping[str, float]) -> None:
        """levels: of buckets, as an earlier ledger left them; a bucket without one is full."""
        self.limits = limits
        self.num_running = 0
        self.num_waiting = 0
        self._buckets: dict[str, Bucket] = {}
        for kind, capacity in _capacities(limits).items():
            level = min(levels.get(kind, capacity), capacity)
            self._buckets[kind] = Bucket(capacity, level, now_s)

    def change(self, limits: Limits, now_s: float) -> None:
        """New limits; what was taken stays taken."""
        capacities = _capacities(limits)
        for kind, capacity in capacities.items():
            if kind in self._buckets:
                self._buckets[kind].resize(capacity, now_s)
            else:
                self._buckets[kind] = Bucket.full(capacity, now_s)
        for kind in self._buckets.keys() - capacities.keys():
            del self._buckets[kind]
        self.limits = limits

    def objection(self, ask: Ask) -> Reason | None:
        """Why a request can never be admitted, or not while so many wait."""
        limit = self.limits.tokens_per_minute
        if limit is not None and ask.tokens > limit:
            return Reason.LARGER_THAN_LIMIT
        if ask.num_texts > self.limits.max_running:
            return Reason.TOO_MANY_TEXTS
        if self.num_waiting >= self.limits.max_waiting:
            return Reason.QUEUE_FULL
        return None

    def has_room(self, num_texts: int) -> bool:
        """Whether so many more texts may run."""
        return self.num_running + num_texts <= self.limits.max_running

    def shortage(self, tokens: int, now_s: float) -> Reason | None:
        """The first bucket that does not hold what a request takes."""
        for kind, amount in amounts(tokens).items():
            if kind in self._buckets and self._buckets[kind].wait_s(amount, now_s) > 0:
                return _REASONS[kind]
        return None

    def retry_s(self, reason: Reason, tokens: int, now_s: float) -> float:
        """Seconds until a request refused for `reason` may fare better."""
        for kind, amount in amounts(tokens).items():
            if _REASONS[kind] is reason and kind in self._buckets:
                return self._buckets[kind].wait_s(amount, now_s)
        return SHORTEST_RETRY_S

    def take(self, tokens: int, now_s: float) -> None:
        """Take one request and its tokens. Raises ValueError where `shortage` names one."""
        for kind, bucket in self._buckets.items():
            bucket.take(amounts(tokens)[kind], now_s)

    def owe(self, tokens: int, now_s: float) -> None:
        """Take one request that was admitted already, and its tokens."""
        for kind, bucket in self._buckets.items():
            bucket.owe(amounts(tokens)[kind], now_s)

    def give_back(self, tokens: int, now_s: float) -> None:
        """Undo `take` for a request that never ran."""
        for kind, bucket in self._buckets.items():
            bucket.refund(amounts(tokens)[kind], now_s)

    def settle(self, reserved: int, used: int, now_s: float) -> None:
        """Refund the reserved tokens that were not used, or charge what was used beyond them."""
        bucket = self._buckets.get(TOKENS)
        if bucket is None:
            return
        if used <= reserved:
            bucket.refund(reserved - used, now_s)
        else:
            bucket.owe(used - reserved, now_s)

    def levels(self, now_s: float) -> dict[str, float]:
        """What each bucket holds."""
        return {kind: bucket.level_at(now_s) for kind, bucket in self._buckets.items()}

    def allowances(self, now_s: float) -> tuple[Allowance, ...]:
        """State of each bucket; it is full again after `reset_s`."""
        return tuple(
            Allowance(
                kind,
                bucket.capacity,
                max(0, int(bucket.level_at(now_s))),
                bucket.wait_s(bucket.capacity, now_s),
            )
            for kind, bucket in self._buckets.items()
        )


def _capacities(limits: Limits) -> dict[str, int]:
    given = {REQUESTS: limits.requests_per_minute, TOKENS: limits.tokens_per_minute}
    return {kind: limit for kind, limit in given.items() if limit is not None}


def amounts(tokens: int) -> dict[str, int]:
    """What one request takes of each bucket."""
    return {REQUESTS: 1, TOKENS: tokens}
