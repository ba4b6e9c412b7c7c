"""The one draft that all targets share: does it live, is it near its capacity, what does it do?"""

from __future__ import annotations

from s2d_ray.observe.panels import Dashboard, Row, Variable, graph, number, stack, states
from s2d_ray.observe.promql import Scope, ratio

SCOPE = Scope(("target",))
LOAD = SCOPE.rate("draft_busy_seconds")
HOP = ratio(SCOPE.rate("hop_seconds", "target"), SCOPE.rate("hops", "target"))

NOW = Row(
    "Now",
    (
        number(
            "Draft",
            "Whether a draft lives; without one rounds decode plainly.",
            "none",
            SCOPE.now("draft_up", how="max"),
            {1: "lives", 0: "away"},
        ),
        number(
            "Load",
            "Share of the time that the draft spends in forwards; above .85 calls begin to miss.",
            "percentunit",
            LOAD,
        ),
        number(
            "Starts in an hour",
            "Draft actors that were started; more than one an hour without an update is a crash.",
            "none",
            SCOPE.events("draft_starts", window="1h"),
        ),
        number(
            "Sessions",
            "Texts that the draft remembers something of.",
            "none",
            SCOPE.now("draft_sessions"),
        ),
        number(
            "Rows in a step",
            "Texts that are drafted for together; one draft for all targets lives off this.",
            "none",
            ratio(SCOPE.rate("draft_step_rows"), SCOPE.rate("draft_steps")),
        ),
        number(
            "Drafted tokens",
            "Guesses each second, for all targets.",
            "suffix: /s",
            SCOPE.rate("draft_tokens"),
        ),
    ),
)

WORK = Row(
    "Work",
    (
        graph(
            "Load",
            "Seconds in forwards each second; at 1 every further call has to wait.",
            "percentunit",
            (LOAD, "load"),
        ),
        graph(
            "Steps",
            "Draft steps each second; fewer at the same load means that steps have become dearer.",
            "suffix: /s",
            (SCOPE.rate("draft_steps"), "steps"),
        ),
        graph(
            "Rows in a step",
            "Mean number of texts in a step; grows with load, and makes guesses cheaper.",
            "none",
            (ratio(SCOPE.rate("draft_step_rows"), SCOPE.rate("draft_steps")), "rows"),
        ),
        stack(
            "Drafted tokens by exit",
            "Guesses each second by the layer they left at; deep ones are dear.",
            "suffix: /s",
            (SCOPE.rate("draft_tokens", "exit"), "exit {{exit}}"),
        ),
        graph(
            "Sessions",
            "Texts that are kept; a steady fall to few with many texts is eviction.",
            "none",
            (SCOPE.now("draft_sessions"), "sessions"),
        ),
        graph(
            "Evicted sessions",
            "Sessions that made room; each has its text read again by the draft.",
            "none",
            (SCOPE.events("draft_evictions"), "evicted"),
        ),
    ),
)

TARGETS = Row(
    "As targets see it",
    (
        graph(
            "Time of a call",
            "Mean seconds from asking to answer; compare with the draft's deadline.",
            "s",
            (HOP, "{{target}}"),
        ),
        graph(
            "Rounds without an answer",
            "Share of rounds that the draft missed, of all decode steps.",
            "percentunit",
            (
                ratio(SCOPE.rate("draft_misses", "target"), SCOPE.rate("rounds", "target")),
                "{{target}}",
            ),
        ),
        states(
            "Circuit",
            "The worst replica of each target; open means that it does not ask for now.",
            {0: "closed", 1: "half open", 2: "open"},
            (SCOPE.now("circuit", "target", how="max"), "{{target}}"),
        ),
    ),
)

DASHBOARD = Dashboard(
    "draft",
    "s2d-ray: draft",
    "The one draft that all targets share.",
    (Variable("target", "replicas"),),
    (NOW, WORK, TARGETS),
)
