"""Every metric of this project, once: name, kind, labels, and what its number means.

Ray exports a metric called `s2d_x` as `ray_s2d_x`, a counter as `ray_s2d_x_total`. Serve adds the
labels `deployment`, `replica` and `application`. What has a mean is a pair of counters, since the
sum of a histogram is made from the middles of its buckets in Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds of buckets of waits."""

TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds of buckets of the time between two tokens."""


class Kind(StrEnum):
    """How a number moves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Teller(StrEnum):
    """The process that tells a metric."""

    ROUTER = "router"
    TARGET = "target"
    DRAFT = "draft manager"
    LEDGER = "ledger"


@dataclass(frozen=True)
class Metric:
    """One metric. name: without `s2d_`. bounds: of a histogram's buckets, upper ends."""

    name: str
    kind: Kind
    teller: Teller
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """Its name at the exporter; of a histogram the part before `_bucket`."""
        return f"ray_s2d_{self.name}" + ("_total" if self.kind is Kind.COUNTER else "")


def _counter(name: str, teller: Teller, labels: str, text: str) -> Metric:
    return Metric(name, Kind.COUNTER, teller, tuple(labels.split()), text)


def _gauge(name: str, teller: Teller, labels: str, text: str) -> Metric:
    return Metric(name, Kind.GAUGE, teller, tuple(labels.split()), text)


def _histogram(
    name: str, teller: Teller, labels: str, text: str, bounds: tuple[float, ...] = SECONDS
) -> Metric:
    return Metric(name, Kind.HISTOGRAM, teller, tuple(labels.split()), text, bounds)


METRICS = (
    # The router tells these when a request ends.
    _counter(
        "requests",
        Teller.ROUTER,
        "tenant target status",
        "Requests that have ended, by HTTP status; 499 if the client left.",
    ),
    _counter("tokens", Teller.ROUTER, "tenant target kind", "Tokens: prompt, cached, output."),
    _counter("failovers", Teller.ROUTER, "target", "Streams that another replica took over."),
    _gauge("open_requests", Teller.ROUTER, "target", "Requests that are not over yet."),
    _gauge("replicas", Teller.ROUTER, "target", "Running replicas, as Serve counts them."),
    _histogram("first_token_s", Teller.ROUTER, "target", "Seconds from arrival to first token."),
    _counter("first_tokens", Teller.ROUTER, "target", "First tokens."),
    _counter("first_token_seconds", Teller.ROUTER, "target", "Seconds to them, summed."),
    _histogram(
        "token_s",
        Teller.ROUTER,
        "target",
        "Of each request, mean seconds between its tokens.",
        TOKEN_SECONDS,
    ),
    _counter("later_tokens", Teller.ROUTER, "target", "Tokens after the first of a request."),
    _counter("later_token_seconds", Teller.ROUTER, "target", "Seconds of those, summed."),
    _histogram("request_s", Teller.ROUTER, "target", "Seconds from arrival to end."),
    _counter("request_seconds", Teller.ROUTER, "target", "Those seconds, summed."),
    _histogram("queue_wait_s", Teller.ROUTER, "target", "Seconds in the ledger."),
    _counter("queue_wait_seconds", Teller.ROUTER, "target", "Those seconds, summed."),
    # The ledger tells these.
    _counter(
        "refusals", Teller.LEDGER, "tenant target reason", "Requests that the ledger refused."
    ),
    _gauge("held_requests", Teller.LEDGER, "target", "Requests that wait in the ledger."),
    _gauge(
        "ledger_lost_records",
        Teller.LEDGER,
        "",
        "Records and snapshots that could not be written, since the ledger's start.",
    ),
    _gauge("ledger_tenants_file_broken", Teller.LEDGER, "", "1 while the file has a mistake."),
    # A target replica tells these once a second, from what its engine has counted.
    _gauge("queue_depth", Teller.TARGET, "target state", "Sequences that are waiting, running."),
    _gauge("outstanding_tokens", Teller.TARGET, "target", "Tokens that these still have to come."),
    _counter("rounds", Teller.TARGET, "target", "Decode steps of sequences, plain ones included."),
    _counter("output_tokens", Teller.TARGET, "target", "Committed tokens."),
    _counter(
        "drafted",
        Teller.TARGET,
        "target by position",
        "Guesses that were verified, by who made them (tier-0, exit-N) and place in the proposal.",
    ),
    _counter("accepted", Teller.TARGET, "target by position", "Those of them that were right."),
    _counter("draft_misses", Teller.TARGET, "target", "Rounds without an answer of the draft."),
    _counter("hops", Teller.TARGET, "target", "Answered calls of the draft."),
    _counter("hop_seconds", Teller.TARGET, "target", "Seconds of those calls, summed."),
    _gauge("circuit", Teller.TARGET, "target", "Towards the draft: 0 closed, 1 half open, 2 open."),
    _gauge(
        "plan",
        Teller.TARGET,
        "target task load field",
        "The plan in force by class of task and load: max_proposal, stop_threshold, exit-N.",
    ),
    _gauge(
        "speedup",
        Teller.TARGET,
        "target load bound",
        "Measured benefit of speculation by the control group: ratio, low, high.",
    ),
    _gauge("speculates", Teller.TARGET, "target load", "1 where it is on, 0 where it is off."),
    _gauge(
        "calibration_error",
        Teller.TARGET,
        "target by",
        "Mean distance of calibrated P(accept) and the share that was accepted.",
    ),
    _gauge("kv_tokens", Teller.TARGET, "target state", "Slots for keys and values: used, total."),
    _counter("evictions", Teller.TARGET, "target", "Kept prefixes that made room for others."),
    _counter("preemptions", Teller.TARGET, "target", "Sequences that made room for others."),
    # The draft manager tells these once a second, from what the draft actor has counted.
    _gauge("draft_up", Teller.DRAFT, "", "1 while a draft lives."),
    _counter("draft_starts", Teller.DRAFT, "", "Draft actors that were started."),
    _counter("draft_busy_seconds", Teller.DRAFT, "", "Seconds in forwards; its rate is the load."),
    _counter("draft_steps", Teller.DRAFT, "", "Draft steps."),
    _counter("draft_step_rows", Teller.DRAFT, "", "Rows of those steps, summed."),
    _counter("draft_tokens", Teller.DRAFT, "exit", "Drafted tokens by the exit they left at."),
    _gauge("draft_sessions", Teller.DRAFT, "", "Draft sessions that are kept."),
    _counter("draft_evictions", Teller.DRAFT, "", "Sessions that made room for others."),
)
"""The order is that of docs/metrics.md."""

BY_NAME = {metric.name: metric for metric in METRICS}
