"""Alert rules, as data and as Prometheus' YAML.

Thresholds that an operator sets stand in the rules as `@name@`, so that one file serves the chart,
which fills in its values, and `s2d dashboards`, which fills in its options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from s2d_ray.observe import alert_queries as queries
from s2d_ray.observe.alert_queries import SCOPE
from s2d_ray.observe.metric_table import SECONDS


def _is_bound(seconds: float) -> float:
    if seconds not in SECONDS:
        bounds = ", ".join(f"{bound:g}" for bound in SECONDS)
        raise ValueError(f"must be a bound of the histogram's buckets: {bounds}")
    return seconds


class Thresholds(BaseModel):
    """What an operator decides about the alerts."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True
    )

    first_token_s: Annotated[float, AfterValidator(_is_bound)] = Field(
        2.5,
        description="A first token is in time within so many seconds.",
        json_schema_extra={"enum": list(SECONDS)},
    )
    first_token_share: float = Field(
        0.95, gt=0, lt=1, description="Share of first tokens that are to be in time."
    )
    served_share: float = Field(
        0.999, gt=0, lt=1, description="Share of requests that are not to end with 5xx."
    )
    max_waiting: int = Field(
        32, ge=1, description="Requests of one target that may wait for ten minutes."
    )
    refused_share: float = Field(
        0.1, gt=0, lt=1, description="Share of a tenant's requests that its limits may refuse."
    )
    draft_load: float = Field(
        0.85, gt=0, lt=1, description="Share of its time that the draft may spend in forwards."
    )
    runbooks: str = Field(
        "docs/alerts.md",
        pattern=r"^[^\s'\"]+$",
        description="Where docs/alerts.md is read; the start of `runbook_url`.",
    )


class Severity(StrEnum):
    """critical: somebody is to look now. warning: within the working day."""

    CRITICAL = "critical"
    WARNING = "warning"


@dataclass(frozen=True)
class Alert:
    """One rule. wait: for how long the expression must hold. text: what it means, with labels."""

    name: str
    expr: str
    wait: str
    severity: Severity
    summary: str
    text: str


BURNS = (
    ("1h", "5m", 14.4, Severity.CRITICAL),
    ("6h", "30m", 6.0, Severity.WARNING),
)
"""Long and short window, and how many times too fast the month's budget is used up in both: a
fiftieth of it in one hour, a twentieth in six. The short one ends the alert when all is well."""

TARGET = "target {{ $labels.target }}"
SHARE = "{{ $value | humanizePercentage }}"
NUMBER = "{{ $value | humanize }}"


def _burns() -> Iterator[Alert]:
    for long, short, times, severity in BURNS:
        yield Alert(
            "S2DFailedRequests",
            queries.failing(long, short, times),
            "2m",
            severity,
            f"{TARGET} fails too many requests",
            f"{SHARE} of its requests of the last {long} ended with 5xx, and it goes on.",
        )
        yield Alert(
            "S2DSlowFirstToken",
            queries.slow(long, short, times),
            "2m",
            severity,
            f"{TARGET} is slow to its first tokens",
            f"{SHARE} of its first tokens of the last {long} came later than @firstTokenS@ s, and "
            "it goes on.",
        )


ALERTS = (
    Alert(
        "S2DDraftDown",
        queries.draft_down(),
        "2m",
        Severity.WARNING,
        "no draft answers",
        "Rounds decode plainly: the same texts, slower.",
    ),
    Alert(
        "S2DDraftNearCapacity",
        f"max by (namespace) (rate({SCOPE.select('draft_busy_seconds')}[5m])) > @draftLoad@",
        "10m",
        Severity.WARNING,
        "the draft is near its capacity",
        f"It spends {SHARE} of its time in forwards; calls begin to miss their deadlines.",
    ),
    Alert(
        "S2DSpeculationHarmful",
        queries.harmful(),
        "10m",
        Severity.WARNING,
        f"speculation slows {TARGET} down",
        "At load {{ $labels.load }} the control group measured at most "
        f"{NUMBER} times the speed of plain decoding, and it is still on.",
    ),
    Alert(
        "S2DAcceptanceDrift",
        queries.drift(),
        "15m",
        Severity.WARNING,
        f"guesses for {TARGET} have become worse",
        "Guesses of {{ $labels.by }} are accepted " + NUMBER + " times as often as the day before.",
    ),
    Alert(
        "S2DCalibrationOff",
        f"avg by (namespace, target, by) "
        f"(avg_over_time({SCOPE.select('calibration_error')}[30m])) > 0.15",
        "30m",
        Severity.WARNING,
        f"plans for {TARGET} rest on wrong chances",
        "For {{ $labels.by }} promised and accepted shares lie " + NUMBER + " apart.",
    ),
    Alert(
        "S2DQueueGrowing",
        queries.queue(),
        "10m",
        Severity.WARNING,
        f"requests for {TARGET} wait",
        f"{NUMBER} requests have been waiting, more than @maxWaiting@ for ten minutes.",
    ),
    Alert(
        "S2DNoReplica",
        queries.away(),
        "5m",
        Severity.CRITICAL,
        f"{TARGET} has no running replica",
        f"{NUMBER} requests are open and nobody serves them.",
    ),
    *_burns(),
    Alert(
        "S2DTenantThrottled",
        queries.throttled(),
        "10m",
        Severity.WARNING,
        "tenant {{ $labels.tenant }} runs into its limits",
        f"Its limits refused {SHARE} of its requests of the last ten minutes.",
    ),
    Alert(
        "S2DReplicaFlapping",
        queries.flapping(),
        "0m",
        Severity.CRITICAL,
        f"replicas of {TARGET} start again and again",
        f"{NUMBER} were started in half an hour, more than an update and scaling explain.",
    ),
    Alert(
        "S2DLostRecords",
        queries.lost_records(),
        "0m",
        Severity.WARNING,
        "the ledger's disk takes no more usage records",
        f"{NUMBER} records of usage are lost; requests go on.",
    ),
    Alert(
        "S2DTenantsFileBroken",
        f"{SCOPE.now('ledger_tenants_file_broken', how='max')} == 1",
        "5m",
        Severity.WARNING,
        "the tenants file has a mistake",
        "The version before it is in force; keys and limits that were changed are not.",
    ),
)


def rules() -> dict[str, Any]:
    """What Prometheus reads, thresholds still open."""
    return {"groups": [{"name": "s2d-ray", "rules": [_rule(alert) for alert in ALERTS]}]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.wait,
        "labels": {"severity": alert.severity.value},
        "annotations": {
            "summary": f"s2d-ray: {alert.summary}",
            "description": alert.text,
            "runbook_url": f"@runbooks@#{alert.name.lower()}",
        },
    }


def template() -> str:
    """The rules as YAML, thresholds as `@name@`."""
    head = "# Made by `s2d dashboards` or `make chart`; docs/alerts.md has a runbook for each.\n"
    return head + yaml.safe_dump(rules(), sort_keys=False, width=100)


def filled(thresholds: Thresholds) -> str:
    """The rules as YAML that Prometheus reads."""
    text = template()
    for name, value in thresholds.model_dump(by_alias=True).items():
        text = text.replace(
            f"@{name}@", f"{value:.12g}" if isinstance(value, float) else str(value)
        )
    return text
