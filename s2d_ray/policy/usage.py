"""What was used: a record for each request, and totals by tenant and target. No text of anybody."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class UsageRecord:
    """One request that was admitted, when it has ended.

    ended_s: Unix seconds. status: of HTTP, 499 if the client left. reserved_tokens: taken at
    admission. queue_ms: in the ledger. first_token_ms: from arrival, None if none was written.
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

    def line(self) -> str:
        """One line of JSON."""
        fields = {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }
        return json.dumps(fields, separators=(",", ":"))


_SUMMED = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "drafted_tokens",
    "accepted_tokens",
)


@dataclass
class UsageTotals:
    """Sums by tenant and target: requests, those that failed, and each kind of token."""

    sums: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)

    def add(self, record: UsageRecord) -> None:
        """Count one record."""
        target = self.sums.setdefault(record.tenant, {}).setdefault(
            record.target, dict.fromkeys(("requests", "failed", *_SUMMED), 0)
        )
        target["requests"] += 1
        target["failed"] += record.status >= 400
        for name in _SUMMED:
            target[name] += getattr(record, name)

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
            totals.sums[tenant] = {target: dict(counts) for target, counts in targets.items()}
        return totals
