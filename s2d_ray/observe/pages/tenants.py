"""Who uses the service, and who is held back."""

from __future__ import annotations

from s2d_ray.observe.panels import Dashboard, Row, Variable, graph, listing, stack
from s2d_ray.observe.promql import Scope, ratio

SCOPE = Scope(("tenant", "target"))
BY_TENANT = "{{tenant}}"
IN_RANGE = SCOPE.over("$__range")
OUTPUT = 'kind="output"'

USE = Row(
    "Use",
    (
        stack(
            "Requests",
            "Requests that end each second, by tenant; `other` is all beyond the first ones.",
            "reqps",
            (SCOPE.rate("requests", "tenant"), BY_TENANT),
        ),
        stack(
            "Output tokens",
            "Tokens written for each tenant; what they pay for.",
            "suffix: /s",
            (SCOPE.rate("tokens", "tenant", OUTPUT), BY_TENANT),
        ),
        stack(
            "Prompt tokens",
            "Tokens that tenants send, those found in the cache included.",
            "suffix: /s",
            (SCOPE.rate("tokens", "tenant", 'kind="prompt"'), BY_TENANT),
        ),
        graph(
            "Cached share of prompts",
            "Prompt tokens whose keys and values were there already; common beginnings raise it.",
            "percentunit",
            (
                ratio(
                    SCOPE.rate("tokens", "tenant", 'kind="cached"'),
                    SCOPE.rate("tokens", "tenant", 'kind="prompt"'),
                ),
                BY_TENANT,
            ),
        ),
        listing(
            "Largest tenants",
            "The ten tenants that had most tokens written in the time shown above.",
            "none",
            f"topk(10, {IN_RANGE.rate('tokens', 'tenant', OUTPUT)} * $__range_s)",
        ),
    ),
)

LIMITS = Row(
    "Limits",
    (
        graph(
            "Refused share",
            "Requests that the ledger refused, of all; a tenant far above 0 needs other limits.",
            "percentunit",
            (
                ratio(SCOPE.rate("refusals", "tenant"), SCOPE.rate("requests", "tenant")),
                BY_TENANT,
            ),
        ),
        stack(
            "Refusals by reason",
            "Why requests were refused: a tenant's limit, or a service that is full.",
            "reqps",
            (SCOPE.rate("refusals", "tenant reason"), "{{tenant}} {{reason}}"),
        ),
        graph(
            "Failed share",
            "Requests that ended with 5xx, of each tenant; even if only one tenant is hit.",
            "percentunit",
            (
                ratio(
                    SCOPE.rate("requests", "tenant", 'status=~"5.."'),
                    SCOPE.rate("requests", "tenant"),
                ),
                BY_TENANT,
            ),
        ),
        stack(
            "Held requests",
            "Requests that wait in the ledger for their turn, by target.",
            "none",
            (SCOPE.now("held_requests", "target"), "{{target}}"),
        ),
        graph(
            "Wait in the ledger",
            "Half and 95 % of requests wait no longer than this, whoever sent them.",
            "s",
            (SCOPE.quantile(0.5, "queue_wait_s", "target"), "{{target}} 50 %"),
            (SCOPE.quantile(0.95, "queue_wait_s", "target"), "{{target}} 95 %"),
        ),
    ),
)

DASHBOARD = Dashboard(
    "tenants",
    "s2d-ray: tenants",
    "Who uses the service, and who is held back.",
    (Variable("target", "replicas"), Variable("tenant", "requests")),
    (USE, LIMITS),
)
