"""The metrics of a target replica, told from what its engine has counted. No Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.breaker import Circuit
from s2d_ray.engine.guesses import TIER_0, By
from s2d_ray.engine.target_engine import EngineStatus
from s2d_ray.observe.meter import Meter, Totals

CIRCUITS = {Circuit.CLOSED: 0, Circuit.HALF_OPEN: 1, Circuit.OPEN: 2}

COUNTERS = {
    "rounds": "rounds",
    "output_tokens": "output_tokens",
    "draft_misses": "draft_misses",
    "evictions": "prefix_evictions",
    "preemptions": "preemptions",
}
"""Metrics, and what the engine calls them."""


class TargetTeller:
    """Of one replica."""

    def __init__(self, meter: Meter, target: str) -> None:
        self._meter = meter
        self._totals = Totals(meter)
        self._target = target

    def tell(
        self,
        status: EngineStatus,
        calls: Mapping[str, int],
        circuit: Circuit | None,
        exit_layers: Sequence[int],
    ) -> None:
        """Tell what has come since the last time.

        calls: counters of the draft's client. circuit: towards the draft, None without one.
        exit_layers: of the draft that the plans in force are for.
        """
        for metric, counter in COUNTERS.items():
            self._total(metric, status.counters.get(counter, 0))
        self._total("hops", calls.get("calls_answered", 0))
        self._total("hop_seconds", calls.get("call_microseconds", 0) / 1e6)
        self._guesses("drafted", status.figures.drafted)
        self._guesses("accepted", status.figures.accepted)
        self._gauges(status)
        if circuit is not None:
            self._set("circuit", CIRCUITS[circuit])
        for task, by_load in status.figures.plans.items():
            for load, plan in by_load.items():
                for field, value in fields_of(plan, exit_layers).items():
                    self._set("plan", value, task=task, load=str(load), field=field)
        for load, told in status.control.get("benefit", {}).items():
            self._set("speculates", told["is_on"], load=load)
            for bound in ("ratio", "low", "high"):
                if bound in told:
                    self._set("speedup", told[bound], load=load, bound=bound)

    def _gauges(self, status: EngineStatus) -> None:
        figures = status.figures
        self._set("queue_depth", figures.num_waiting, state="waiting")
        self._set("queue_depth", figures.num_running, state="running")
        self._set("outstanding_tokens", status.outstanding_tokens)
        for state, num_tokens in figures.kv_tokens.items():
            self._set("kv_tokens", num_tokens, state=state)
        for drafted_by, error in figures.calibration_errors.items():
            self._set("calibration_error", error, by=maker(drafted_by))

    def _guesses(self, metric: str, counts: Mapping[By, int]) -> None:
        for (drafted_by, place), total in counts.items():
            self._total(metric, total, by=maker(drafted_by), position=str(place))

    def _total(self, metric: str, total: float, **labels: str) -> None:
        self._totals.tell(metric, total, target=self._target, **labels)

    def _set(self, metric: str, value: float, **labels: str) -> None:
        self._meter.tell(metric, float(value), target=self._target, **labels)


def maker(drafted_by: int) -> str:
    """The label of who guessed: layers of the sub-model, or tier 0."""
    return "tier-0" if drafted_by == TIER_0 else f"exit-{drafted_by}"


def fields_of(plan: Plan, exit_layers: Sequence[int]) -> dict[str, float]:
    """What is told of a plan: its length, where it stops, and below what each exit is passed."""
    thresholds = dict(zip(map(maker, exit_layers[:-1]), plan.exit_thresholds, strict=False))
    return {
        "max_proposal": float(plan.max_proposal),
        "stop_threshold": plan.stop_threshold,
        **thresholds,
    }
