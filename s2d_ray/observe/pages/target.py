"""One target, replica by replica: its queue, what its guesses are worth, its memory."""

from __future__ import annotations

from s2d_ray.observe.panels import (
    Dashboard,
    Row,
    Variable,
    graph,
    listing,
    stack,
    states,
)
from s2d_ray.observe.promql import Scope, ratio

SCOPE = Scope(("target", "replica"))
BY_TARGET = "{{target}}"
BY_REPLICA = "{{target}} {{replica}}"
BY_LOAD = "{{target}}, load {{load}}"
KV_USED = SCOPE.now("kv_tokens", "target replica", 'state="used"')
KV_TOTAL = SCOPE.now("kv_tokens", "target replica", 'state="total"')
ACCEPTED, DRAFTED = (SCOPE.rate(name, "target by") for name in ("accepted", "drafted"))

REQUESTS = Row(
    "Requests",
    (
        graph(
            "Queue depth",
            "Sequences that run and wait; waiting ones mean that batch or memory is full.",
            "none",
            (SCOPE.now("queue_depth", "target replica state"), f"{BY_REPLICA} {{{{state}}}}"),
        ),
        graph(
            "Outstanding tokens",
            "Tokens that running and waiting sequences may still take; even among replicas.",
            "none",
            (SCOPE.now("outstanding_tokens", "target replica"), BY_REPLICA),
        ),
        graph(
            "Wait in the ledger",
            "Mean over all requests, and what 95 % of those that waited stay below.",
            "s",
            (
                ratio(SCOPE.rate("queue_wait_seconds", "target"), SCOPE.rate("requests", "target")),
                "{{target}} mean",
            ),
            (SCOPE.quantile(0.95, "queue_wait_s", "target"), "{{target}} 95 %"),
        ),
        graph(
            "Time to first token",
            "Mean and 95 % quantile; a mean near the quantile says that all requests are slow.",
            "s",
            (
                ratio(
                    SCOPE.rate("first_token_seconds", "target"),
                    SCOPE.rate("first_tokens", "target"),
                ),
                "{{target}} mean",
            ),
            (SCOPE.quantile(0.95, "first_token_s", "target"), "{{target}} 95 %"),
        ),
        graph(
            "Time between tokens",
            "Mean over tokens, and what 95 % of requests stay below.",
            "s",
            (
                ratio(
                    SCOPE.rate("later_token_seconds", "target"),
                    SCOPE.rate("later_tokens", "target"),
                ),
                "{{target}} mean",
            ),
            (SCOPE.quantile(0.95, "token_s", "target"), "{{target}} 95 %"),
        ),
        graph(
            "Time of a whole request",
            "Mean and 95 % quantile from arrival to end; grows with the length of answers.",
            "s",
            (
                ratio(SCOPE.rate("request_seconds", "target"), SCOPE.rate("requests", "target")),
                "{{target}} mean",
            ),
            (SCOPE.quantile(0.95, "request_s", "target"), "{{target}} 95 %"),
        ),
    ),
)

GUESSES = Row(
    "Guesses",
    (
        graph(
            "Committed tokens",
            "Tokens each second and replica; the figure that speculation is to raise.",
            "suffix: /s",
            (SCOPE.rate("output_tokens", "target replica"), BY_REPLICA),
        ),
        graph(
            "Mean accepted length",
            "1 + accepted / rounds: tokens that a decode step commits, plain steps included.",
            "none",
            (
                "1 + " + ratio(SCOPE.rate("accepted", "target"), SCOPE.rate("rounds", "target")),
                BY_TARGET,
            ),
        ),
        graph(
            "Guesses in a round",
            "Mean length of proposals, 0 for plain steps; the plan decides it.",
            "none",
            (ratio(SCOPE.rate("drafted", "target"), SCOPE.rate("rounds", "target")), BY_TARGET),
        ),
        graph(
            "Accepted share by who guessed",
            "Right guesses of tier 0 and of each exit; deeper exits should be right more often.",
            "percentunit",
            (ratio(ACCEPTED, DRAFTED), "{{target}} {{by}}"),
        ),
        graph(
            "Accepted share by position",
            "Right guesses by their place in the proposal; where it falls low, plans should end.",
            "percentunit",
            (
                ratio(
                    SCOPE.rate("accepted", "target position"),
                    SCOPE.rate("drafted", "target position"),
                ),
                "{{target}} at {{position}}",
            ),
        ),
        stack(
            "Who guesses",
            "Share of verified guesses by tier 0 and each exit; shows what thresholds do.",
            "percentunit",
            (SCOPE.shares("drafted", "by", "target"), "{{target}} {{by}}"),
        ),
    ),
)

CONTROL = Row(
    "Control",
    (
        graph(
            "Measured benefit, with its bounds",
            "Speed with speculation over that without; it pays where the low bound is above 1.",
            "none",
            (SCOPE.now("speedup", "target load bound", how="avg"), f"{BY_LOAD} {{{{bound}}}}"),
        ),
        states(
            "Speculation",
            "Off where the control group measured that it costs, for each load apart.",
            {1: "on", 0: "off"},
            (
                SCOPE.now("speculates", "target replica load", how="max"),
                f"{BY_REPLICA} {{{{load}}}}",
            ),
        ),
        graph(
            "Calibration error",
            "Distance of promised and accepted shares; above .1 plans rest on wrong numbers.",
            "none",
            (SCOPE.now("calibration_error", "target by", how="avg"), "{{target}} {{by}}"),
        ),
        listing(
            "Plan in force",
            "Length, stop threshold and exit thresholds, by class of task and by load.",
            "none",
            SCOPE.now("plan", "target task load field", how="avg"),
        ),
    ),
)

DRAFT = Row(
    "Towards the draft",
    (
        states(
            "Circuit",
            "Open: the draft did not answer, so rounds decode plainly until it does.",
            {0: "closed", 1: "half open", 2: "open"},
            (SCOPE.now("circuit", "target replica", how="max"), BY_REPLICA),
        ),
        graph(
            "Time of a call",
            "Mean seconds from asking the draft to its answer, its forwards included.",
            "s",
            (ratio(SCOPE.rate("hop_seconds", "target"), SCOPE.rate("hops", "target")), BY_TARGET),
        ),
        graph(
            "Rounds without an answer",
            "Share of rounds that the draft missed: it was late, busy or away.",
            "percentunit",
            (
                ratio(SCOPE.rate("draft_misses", "target"), SCOPE.rate("rounds", "target")),
                BY_TARGET,
            ),
        ),
    ),
)

MEMORY = Row(
    "Keys and values",
    (
        graph(
            "Slots in use",
            "Share of a replica's slots for keys and values; near 1 texts wait or pause.",
            "percentunit",
            (f"{KV_USED} / ({KV_TOTAL} > 0)", BY_REPLICA),
        ),
        graph(
            "Evicted prefixes",
            "Kept beginnings of texts that made room; many mean that prompts share less.",
            "none",
            (SCOPE.events("evictions", "target"), BY_TARGET),
        ),
        graph(
            "Preempted sequences",
            "Texts that paused for want of memory and are computed again; should be rare.",
            "none",
            (SCOPE.events("preemptions", "target"), BY_TARGET),
        ),
    ),
)

DASHBOARD = Dashboard(
    "target",
    "s2d-ray: target",
    "One target, replica by replica.",
    (Variable("target", "replicas"), Variable("replica", "queue_depth")),
    (REQUESTS, GUESSES, CONTROL, DRAFT, MEMORY),
)
