"""The metrics of the draft, told from what its actor has counted. No Ray calls."""

from __future__ import annotations

from s2d_ray.observe.meter import Meter, Totals
from s2d_ray.serve.draft_actor import DraftHealth

DRAFTED_BY = "drafted_by_"
"""Prefix of the draft engine's counters of tokens by exit."""

COUNTERS = {
    "draft_steps": "steps",
    "draft_step_rows": "step_rows",
    "draft_evictions": "evicted_sessions",
}
"""Metrics, and what the draft engine calls them."""


class DraftTeller:
    """Of one manager, whose drafts come and go."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._totals = Totals(meter)
        self._life = 0
        self._of_life = Totals(meter)

    def tell(self, num_starts: int, health: DraftHealth | None, *, is_up: bool) -> None:
        """Tell what has come since the last time. health: of the draft started last, if known."""
        self._meter.tell("draft_up", float(is_up))
        self._totals.tell("draft_starts", num_starts)
        if num_starts != self._life:
            self._life, self._of_life = num_starts, Totals(self._meter)
        counters = {} if health is None else health.counters
        self._meter.tell("draft_sessions", float(counters.get("sessions", 0)))
        if health is None:
            return
        self._of_life.tell("draft_busy_seconds", counters.get("busy_microseconds", 0) / 1e6)
        for metric, counter in COUNTERS.items():
            self._of_life.tell(metric, counters.get(counter, 0))
        for name, total in counters.items():
            if name.startswith(DRAFTED_BY):
                self._of_life.tell("draft_tokens", total, exit=name.removeprefix(DRAFTED_BY))
