"""The expressions of the alerts, those that are longer than a line.

Every one keeps the label `namespace`, which the Prometheus operator adds and other set-ups do
without. What an operator decides stands in them as `@name@`, see `alerts.Thresholds`.
"""

from __future__ import annotations

from collections.abc import Callable

from s2d_ray.observe.promql import Scope

SCOPE = Scope(window="5m", keys=("namespace",))
"""Rates are of five minutes, where nothing else is said."""

FEWEST_REQUESTS = 20
"""In the long window: fewer are no evidence."""

FEWEST_GUESSES = 1_000
"""In an hour: fewer are no evidence."""

OWN_LIMITS = 'reason=~"requests_per_minute|tokens_per_minute|queue_full|too_many_texts"'
OF_TARGETS = 'application=~"target-.+"'
STARTS = "ray_serve_deployment_replica_starts_total"


def failing(long: str, short: str, times: float) -> str:
    """Requests that end with 5xx use up the budget of `served_share` so many times too fast."""
    return _burning(_failed, "servedShare", long, short, times)


def slow(long: str, short: str, times: float) -> str:
    """First tokens that come late use up that of `first_token_share`."""
    return _burning(_late, "firstTokenShare", long, short, times)


def _burning(
    rates: Callable[[Scope], tuple[str, str]], objective: str, long: str, short: str, times: float
) -> str:
    parts = []
    for window in (long, short):
        bad, every = rates(SCOPE.over(window))
        parts.append(f"{bad} / ({every} > 0) > {times:g} * (1 - @{objective}@)")
    seconds = 3_600 * int(long.removesuffix("h"))
    requests = SCOPE.over(long).rate("requests", "target")
    return " and ".join([*parts, f"{requests} * {seconds} >= {FEWEST_REQUESTS}"])


def _failed(scope: Scope) -> tuple[str, str]:
    bad = scope.rate("requests", "target", 'status=~"5.."')
    return bad, scope.rate("requests", "target")


def _late(scope: Scope) -> tuple[str, str]:
    every, good = (
        scope.up_to("first_token_s", bound, "target") for bound in ("[+]Inf", "@firstTokenS@")
    )
    return f"({every} - {good})", every


def draft_down() -> str:
    """It is told to be away, no replica reaches it, or its manager has fallen silent."""
    up = SCOPE.now("draft_up", how="max")
    seen = f"max by (namespace) (present_over_time({SCOPE.select('draft_up')}[1d]))"
    # Between two tries a circuit is half open for a moment.
    unreached = f"min by (namespace) (max_over_time({SCOPE.select('circuit')}[1m]))"
    routers = SCOPE.now("replicas", how="max")
    return f"{up} == 0 or {unreached} == 2 or ({seen} unless {up}) and {routers}"


def harmful() -> str:
    """The whole interval lies below 1 where speculation is still on."""
    by = "target replica load"
    high = SCOPE.now("speedup", by, 'bound="high"', "max")
    on = SCOPE.now("speculates", by, how="max")
    return f"max by (namespace, target, load) ({high} < 1 and {on} == 1)"


def drift() -> str:
    """The share of the last hour against that of the day before it."""
    by = "target by"
    hour, day = SCOPE.over("1h"), SCOPE.over("1d", ago="1h")
    now, before = (
        f"({scope.rate('accepted', by)} / ({scope.rate('drafted', by)} > 0))"
        for scope in (hour, day)
    )
    return f"{now} / {before} < 0.8 and {hour.rate('drafted', by)} * 3600 >= {FEWEST_GUESSES}"


def queue() -> str:
    """Waiting in replicas and in the ledger."""
    waiting = SCOPE.select("queue_depth", 'state="waiting"')
    held = SCOPE.select("held_requests")
    return f"sum by (namespace, target) ({waiting} or {held}) > @maxWaiting@"


def away() -> str:
    """Nobody serves, and somebody waits."""
    waiting = SCOPE.now("open_requests", "target")
    return f"{waiting} > 0 and {SCOPE.now('replicas', 'target', how='max')} == 0"


def throttled() -> str:
    """Refused by limits of the tenant's own, of all its requests."""
    scope = SCOPE.over("10m")
    refused = scope.rate("refusals", "tenant", OWN_LIMITS)
    return f"{refused} / ({scope.rate('requests', 'tenant')} > 0) > @refusedShare@"


def flapping() -> str:
    """Starts that neither an update, which is one of each, nor scaling up explains.

    Each start is a series of its own, since Serve gives each replica another name.
    """
    starts = SCOPE.select(STARTS, OF_TARGETS)
    new = f"{starts} unless {starts} offset 30m"
    target = f'label_replace({new}, "target", "$1", "application", "target-(.+)")'
    most = f"max by (namespace, target) (max_over_time({SCOPE.select('replicas')}[30m]))"
    return f"count by (namespace, target) ({target}) > 2 * {most} + 2"


def lost_records() -> str:
    """More than a quarter of an hour ago."""
    lost = SCOPE.now("ledger_lost_records", how="max")
    before = f"max by (namespace) ({SCOPE.select('ledger_lost_records')} offset 15m)"
    return f"{lost} > ({before} or 0 * {lost})"
