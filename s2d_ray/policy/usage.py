"""What was used: a record for each request that ran, counts of those that were refused, and totals
by tenant and target. No text of anybody.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from s2d_ray.policy.limits import Reason, Refusal, status_of


@dataclass(frozen=True)
class UsageRecord:
    """One request that was admitted, when it has ended.

    ended_s: Unix seconds. status: of HTTP, 499 if the client left. reserved_tokens: taken at
    admission. queue_ms: in the ledger. first_token_ms: from arrival, None if none was written.
    grant_id: the ledger's own name of the request, by which a record that is told twice is known.
    """

    ended_s: float
    request_id: str
    tenant: str
    key_id: str
    target: str
    status: int
    reserved_tokens: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    queue_ms: float = 0.0
    first_token_ms: float | None = None
    total_ms: float = 0.0
    grant_id: str = ""

    def line(self) -> str:
        """One line of JSON."""
        fields = {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        return json.dumps(fields, separators=(",", ":"))


class RefusalCounts:
    """Requests that were refused, by tenant, target and reason.

    A line for each of these and no more, however many were refused: what a flood writes down is
    bounded by how often it is asked.
    """

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, Reason]] = Counter()

    def add(self, tenant: str, target: str, refusal: Refusal) -> None:
        """Count one request."""
        self._counts[tenant, target, refusal.reason] += 1

    def take(self, now_s: float) -> list[str]:
        """One line of JSON each; it starts again at none. now_s: Unix seconds."""
        counts, self._counts = self._counts, Counter()
        return [
            json.dumps(
                {
                    "until_s": round(now_s, 3),
                    "tenant": tenant,
                    "target": target,
                    "status": status_of(reason),
                    "reason": reason.value,
                    "requests": number,
                },
                separators=(",", ":"),
            )
            for (tenant, target, reason), number in sorted(counts.items())
        ]


_SUMMED = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "drafted_tokens",
    "accepted_tokens",
)
_COUNTED = ("requests", "failed", "refused", *_SUMMED)


@dataclass
class UsageTotals:
    """Sums by tenant and target: requests that ran, those of them that failed, requests that were
    refused, and each kind of token.
    """

    sums: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def add(self, record: UsageRecord) -> None:
        """Count one record."""
        target = self._sums_of(record.tenant, record.target)
        target["requests"] += 1
        target["failed"] += record.status >= 400
        for name in _SUMMED:
            target[name] += getattr(record, name)

    def add_refusal(self, tenant: str, target: str) -> None:
        """Count one request that was refused."""
        self._sums_of(tenant, target)["refused"] += 1

    def of(self, tenants: Iterable[str]) -> dict[str, dict[str, dict[str, int]]]:
        """Copies of some tenants' sums, by tenant and target."""
        return {
            tenant: {target: dict(sums) for target, sums in self.sums.get(tenant, {}).items()}
            for tenant in tenants
        }

    @classmethod
    def resumed(cls, sums: Mapping[str, Mapping[str, Mapping[str, int]]]) -> UsageTotals:
        """Totals that go on from `of`."""
        totals = cls()
        for tenant, targets in sums.items():
            for target, counts in targets.items():
                totals._sums_of(tenant, target).update(counts)
        return totals

    def _sums_of(self, tenant: str, target: str) -> dict[str, int]:
        targets = self.sums.setdefault(tenant, {})
        return targets.setdefault(target, dict.fromkeys(_COUNTED, 0))
