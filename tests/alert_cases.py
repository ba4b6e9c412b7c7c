"""Series by which each alert fires or stays silent, and promtool's test file made from them.

Times are minutes, one sample each; values are in promtool's words: `0+60x30` rises by 60 a minute
for half an hour, `_` is a missing sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2d_ray.observe.alerts import Severity

WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
Firing = frozenset[tuple[str, Severity]]
NOBODY: Firing = frozenset()


@dataclass(frozen=True)
class Case:
    """What a service tells, and who fires at what minute. series: in place of the healthy ones."""

    name: str
    series: Mapping[str, str]
    fires: Mapping[int, Firing]
    minutes: int = 60


def _only(name: str, severity: Severity = WARNING) -> Firing:
    return frozenset({(name, severity)})


LEFT = 'target="left"'
REPLICA = 'target="left",replica="a"'
REQUESTS = 'ray_s2d_requests_total{tenant="acme",target="left",status="%s"}'
FIRST_TOKENS = 'ray_s2d_first_token_s_bucket{target="left",le="%s"}'
STARTS = 'ray_serve_deployment_replica_starts_total{application="target-left",replica="%s"}'
DRAFTED = 'ray_s2d_drafted_total{target="left",by="exit-2",position="1",replica="a"}'
ACCEPTED = DRAFTED.replace("drafted", "accepted")
UP = "ray_s2d_draft_up"
CIRCUIT = f"ray_s2d_circuit{{{REPLICA}}}"
BUSY = "ray_s2d_draft_busy_seconds_total"
REPLICAS = f"ray_s2d_replicas{{{LEFT}}}"
HELD = f"ray_s2d_held_requests{{{LEFT}}}"
WAITING = f'ray_s2d_queue_depth{{{REPLICA},state="waiting"}}'
OPEN = f"ray_s2d_open_requests{{{LEFT}}}"
CALIBRATION = f'ray_s2d_calibration_error{{{REPLICA},by="exit-2"}}'
BENEFIT = f'ray_s2d_speedup{{{REPLICA},load="2",bound="high"}}'
SPECULATES = f'ray_s2d_speculates{{{REPLICA},load="2"}}'
REFUSALS = 'ray_s2d_refusals_total{tenant="acme",target="left",reason="%s"}'
LOST = "ray_s2d_ledger_lost_records"
BROKEN = "ray_s2d_ledger_tenants_file_broken"


def healthy(minutes: int) -> dict[str, str]:
    """One busy target of two replicas with nothing wrong."""
    steady = {UP: 1, CIRCUIT: 0, REPLICAS: 2, HELD: 2, WAITING: 3, OPEN: 9, CALIBRATION: 0.02}
    steady |= {BENEFIT: 1.5, SPECULATES: 1, LOST: 0, BROKEN: 0, STARTS % "a": 1, STARTS % "b": 1}
    rising = {BUSY: 18, DRAFTED: 600, ACCEPTED: 450, REQUESTS % "200": 60, REQUESTS % "499": 1}
    rising |= {FIRST_TOKENS % "2.5": 59, FIRST_TOKENS % "+Inf": 60}
    rising |= {REQUESTS % "429": 1, REFUSALS % "tokens_per_minute": 1}
    return {name: f"{value}x{minutes}" for name, value in steady.items()} | {
        name: f"0+{value}x{minutes}" for name, value in rising.items()
    }


def _flapping(every: int, number: int) -> dict[str, str]:
    """A new replica every so many minutes, from the tenth on."""
    gaps = {f"r{index}": 10 + index * every for index in range(number)}
    return {STARTS % name: f"_x{minute - 1} 1x{60 - minute}" for name, minute in gaps.items()}


FAST_AND_SLOW = frozenset({("S2DFailedRequests", CRITICAL), ("S2DFailedRequests", WARNING)})
LATE = frozenset({("S2DSlowFirstToken", CRITICAL), ("S2DSlowFirstToken", WARNING)})

CASES = (
    Case("a healthy service", {}, {0: NOBODY, 1: NOBODY, 60: NOBODY, 400: NOBODY}, 400),
    Case(
        "a service without traffic",
        {name: "5x60" for name, values in healthy(60).items() if values.startswith("0+")},
        {30: NOBODY, 60: NOBODY},
    ),
    # The draft.
    Case("the draft is away", {UP: "1x9 0x50"}, {11: NOBODY, 13: _only("S2DDraftDown")}),
    Case("it was away for a minute", {UP: "1x9 0 1x49"}, {11: NOBODY, 15: NOBODY}),
    Case("its manager fell silent", {UP: "1x9 _x50"}, {30: _only("S2DDraftDown")}),
    Case(
        "no replica reaches it",
        {CIRCUIT: "0x9 2x3 1 2x3 1 2x20"},
        {11: NOBODY, 25: _only("S2DDraftDown")},
    ),
    Case("there is no draft at all", {UP: "_x60", CIRCUIT: "_x60"}, {30: NOBODY}),
    Case("the draft is busy", {BUSY: "0+54x60"}, {9: NOBODY, 20: _only("S2DDraftNearCapacity")}),
    # Speculation.
    Case("speculation costs", {BENEFIT: "0.9x60"}, {20: _only("S2DSpeculationHarmful")}),
    Case("what costs is off", {BENEFIT: "0.9x60", SPECULATES: "0x60"}, {20: NOBODY}),
    Case(
        "guesses become worse",
        {ACCEPTED: "0+450x200 90300+300x140"},
        {200: NOBODY, 340: _only("S2DAcceptanceDrift")},
        340,
    ),
    Case("chances are wrong", {CALIBRATION: "0.2x90"}, {80: _only("S2DCalibrationOff")}, 90),
    # Requests.
    Case("a queue in the ledger", {HELD: "40x60"}, {9: NOBODY, 12: _only("S2DQueueGrowing")}),
    Case("a queue in replicas", {WAITING: "40x60"}, {12: _only("S2DQueueGrowing")}),
    Case("a short queue", {WAITING: "40x8 3x50"}, {12: NOBODY}),
    Case("no replica", {REPLICAS: "0x60"}, {4: NOBODY, 8: _only("S2DNoReplica", CRITICAL)}),
    Case("an idle target sleeps", {REPLICAS: "0x60", OPEN: "0x60"}, {30: NOBODY}),
    Case("requests fail", {REQUESTS % "503": "0+3x60"}, {30: FAST_AND_SLOW}),
    Case(
        "a few requests fail",
        {REQUESTS % "503": "0+0.5x400"},
        {390: _only("S2DFailedRequests")},
        400,
    ),
    Case(
        "requests failed until a moment ago",
        {REQUESTS % "503": "0+3x30 90x370"},
        {30: FAST_AND_SLOW, 40: _only("S2DFailedRequests"), 80: NOBODY},
        400,
    ),
    Case(
        "one of three requests failed",
        {REQUESTS % "200": "0x20 2x40", REQUESTS % "499": "0x60", REQUESTS % "429": "0x60"}
        | {REQUESTS % "503": "0x20 1x40", FIRST_TOKENS % "2.5": "0x60"}
        | {FIRST_TOKENS % "+Inf": "0x60"},
        {22: NOBODY, 24: NOBODY},
    ),
    Case("first tokens are late", {FIRST_TOKENS % "2.5": "0+6x60"}, {30: LATE}),
    Case(
        "some first tokens are late",
        {FIRST_TOKENS % "2.5": "0+36x60"},
        {60: _only("S2DSlowFirstToken")},
    ),
    # Tenants and replicas.
    Case(
        "a tenant is refused",
        {REFUSALS % "tokens_per_minute": "0+20x60", REQUESTS % "429": "0+20x60"},
        {9: NOBODY, 20: _only("S2DTenantThrottled")},
    ),
    Case(
        "the service is full",
        {REFUSALS % "service_full": "0+20x60"},
        {20: NOBODY},
    ),
    Case(
        "replicas start again and again",
        _flapping(every=3, number=9),
        {20: NOBODY, 40: _only("S2DReplicaFlapping", CRITICAL)},
    ),
    Case("an update replaces two", _flapping(every=2, number=2), {20: NOBODY, 30: NOBODY}),
    Case(
        "a target grows to eight",
        {REPLICAS: "2x9 8x50"} | _flapping(every=1, number=6),
        {12: NOBODY, 20: NOBODY, 40: NOBODY},
    ),
    # The ledger.
    Case("records are lost", {LOST: "0x9 7x50"}, {12: _only("S2DLostRecords"), 40: NOBODY}),
    Case("the tenants file is broken", {BROKEN: "1x60"}, {10: _only("S2DTenantsFileBroken")}),
)


LONG = tuple(case for case in CASES if case.minutes > 60)
SHORT = tuple(case for case in CASES if case.minutes <= 60)


def promtool_file(rules: str, cases: tuple[Case, ...], every_minutes: int) -> dict[str, Any]:
    """A file for `promtool test rules`. rules: beside it. every_minutes: rules are evaluated."""
    return {
        "rule_files": [rules],
        "evaluation_interval": f"{every_minutes}m",
        "tests": [_test(case) for case in cases],
    }


def _test(case: Case) -> dict[str, Any]:
    series = healthy(case.minutes) | case.series
    return {
        "name": case.name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname, severity) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": [
                    {"labels": f'{{alertname="{name}", severity="{severity}"}}', "value": 1}
                    for name, severity in sorted(fires)
                ],
            }
            for minute, fires in case.fires.items()
        ],
    }
