"""The first page: is the service well, and does speculation pay?"""

from __future__ import annotations

from s2d_ray.observe.panels import Dashboard, Row, Variable, graph, number, stack
from s2d_ray.observe.promql import Scope, ratio

SCOPE = Scope(("target",))
BY_TARGET = "{{target}}"
FIRING = 'count(ALERTS{alertname=~"S2D.+", alertstate="firing"}) or vector(0)'

NOW = Row(
    "Now",
    (
        number(
            "Alerts",
            "Alerts of docs/alerts.md that fire; anything but 0 has a runbook.",
            "none",
            FIRING,
        ),
        number(
            "Requests",
            "Requests that end each second, whatever their status.",
            "reqps",
            SCOPE.rate("requests"),
        ),
        number(
            "Failed",
            "Share of requests that the service could not serve (5xx); should stay near 0.",
            "percentunit",
            ratio(SCOPE.rate("requests", where='status=~"5.."'), SCOPE.rate("requests")),
        ),
        number(
            "Output tokens",
            "Tokens written each second; compare with the day before.",
            "suffix: /s",
            SCOPE.rate("tokens", where='kind="output"'),
        ),
        number(
            "Open requests",
            "Requests that are not over; a rising number without more requests is a queue.",
            "none",
            SCOPE.now("open_requests"),
        ),
        number(
            "Draft",
            "Whether a draft lives; without one everything goes on, slower.",
            "none",
            SCOPE.now("draft_up", how="max"),
            {1: "lives", 0: "away"},
        ),
    ),
)

SERVICE = Row(
    "What clients see",
    (
        stack(
            "Requests by status",
            "200 is served, 4xx the client's or its limits, 5xx ours, 499 a client that left.",
            "reqps",
            (SCOPE.rate("requests", "status"), "{{status}}"),
        ),
        graph(
            "Time to first token",
            "Half, 95 % and 99 % of requests have their first token by then; as fine as buckets.",
            "s",
            (SCOPE.quantile(0.5, "first_token_s"), "50 %"),
            (SCOPE.quantile(0.95, "first_token_s"), "95 %"),
            (SCOPE.quantile(0.99, "first_token_s"), "99 %"),
        ),
        graph(
            "Time between tokens",
            "Half and 95 % of requests are at least that quick after their first token.",
            "s",
            (SCOPE.quantile(0.5, "token_s"), "50 %"),
            (SCOPE.quantile(0.95, "token_s"), "95 %"),
        ),
        stack(
            "Output tokens by target",
            "Tokens written each second; what the machines are for.",
            "suffix: /s",
            (SCOPE.rate("tokens", "target", 'kind="output"'), BY_TARGET),
        ),
        stack(
            "Waiting",
            "Requests in the ledger and sequences in replicas that wait; flat is healthy.",
            "none",
            (SCOPE.now("held_requests", "target"), "{{target}}, in the ledger"),
            (SCOPE.now("queue_depth", "target", 'state="waiting"'), "{{target}}, in replicas"),
        ),
        graph(
            "Streams that another replica took over",
            "Replicas that were lost under open streams; clients saw one unbroken text.",
            "none",
            (SCOPE.events("failovers", "target"), BY_TARGET),
        ),
    ),
)

SPECULATION = Row(
    "What speculation earns",
    (
        graph(
            "Measured benefit",
            "Speed with speculation over that without, by the control group; below 1 it costs.",
            "none",
            (
                SCOPE.now("speedup", "target load", 'bound="ratio"', how="avg"),
                "{{target}}, load {{load}}",
            ),
        ),
        graph(
            "Mean accepted length",
            "Tokens that a decode step commits: 1 is plain decoding, more is earned by guesses.",
            "none",
            (
                "1 + " + ratio(SCOPE.rate("accepted", "target"), SCOPE.rate("rounds", "target")),
                BY_TARGET,
            ),
        ),
        graph(
            "Accepted share",
            "Guesses that were right, of those verified; a fall means texts or draft have changed.",
            "percentunit",
            (
                ratio(SCOPE.rate("accepted", "target"), SCOPE.rate("drafted", "target")),
                BY_TARGET,
            ),
        ),
    ),
)

DASHBOARD = Dashboard(
    "overview",
    "s2d-ray: overview",
    "Is the service well, and does speculation pay?",
    (Variable("target", "replicas"),),
    (NOW, SERVICE, SPECULATION),
)
