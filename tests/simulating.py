"""Small services for the simulator's tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from s2d_ray.config import AppConfig
from s2d_ray.core.cost_model import CostModel, Provenance
from s2d_ray.policy.ledger import Bounds
from s2d_ray.policy.limits import Limits
from s2d_ray.simulate.costs import default_costs, load_costs
from s2d_ray.simulate.replica import Engine
from s2d_ray.simulate.request import Arrival
from s2d_ray.simulate.service import Scaling, Service, Simulation, Target
from s2d_ray.simulate.setup import service_of, tenants_of
from s2d_ray.simulate.traces import Caps, Mix

MANY = Bounds(max_open=10**6, max_waiting_bytes=10**9)
NO_LIMITS = Limits(max_running=10**6, max_waiting=10**6)
MIX = Mix({"t": Caps(2_048, 256)}, ["a", "b", "c"])
MEASURED = load_costs(default_costs())


def costs(
    forward_s: Mapping[tuple[int, int], float],
    prefill_s: Mapping[int, float],
    draft_s: Mapping[int, float],
) -> CostModel:
    """Of a draft with one exit, called for nothing."""
    steps = {(2, rows): seconds for rows, seconds in draft_s.items()}
    return CostModel(steps, forward_s, prefill_s, 0.0, Provenance("h", "c", "d"))


def flat(step_s: float) -> CostModel:
    """Every step takes the same, whatever is in it."""
    forward = {(texts, tokens): step_s for texts in (1, 2) for tokens in (1, 2)}
    return costs(forward, {2: step_s}, {1: step_s, 2: step_s})


@dataclass(frozen=True)
class Site:
    """One target and its tenants."""

    num_replicas: int = 1
    max_batch: int = 8
    prefill_chunk: int = 256
    costs: CostModel = MEASURED
    scaling: Scaling | None = None
    tenants: Mapping[str, Limits] | None = None
    bounds: Bounds = MANY
    max_wait_s: float = 1e9
    start_s: float = 0.0

    def service(self) -> Service:
        engine = Engine(self.costs, self.max_batch, self.prefill_chunk)
        return Service(
            {"t": Target(engine, self.num_replicas, self.scaling)},
            self.tenants or dict.fromkeys(MIX.tenants, NO_LIMITS),
            self.bounds,
            self.max_wait_s,
            self.start_s,
        )

    def run(self, arrivals: Iterable[Arrival], until_s: float, seed: int = 1) -> Simulation:
        simulation = Simulation(self.service(), iter(arrivals), seed)
        simulation.run(until_s)
        return simulation


def replica_counts(
    config: AppConfig, arrivals: Iterable[Arrival], *, step_s: float, start_s: float, until_s: float
) -> list[tuple[float, int]]:
    """Seconds and running replicas of the config's only target, told at each change."""
    [name] = config.targets
    costs = {name: flat(step_s)}
    service = service_of(config, tenants_of(config, None), costs, start_s=start_s, acceptance=0)
    simulation = Simulation(service, iter(sorted(arrivals, key=lambda each: each.at_s)), 1)
    simulation.run(until_s)
    seen: list[tuple[float, int]] = []
    for count in simulation.pools[name].counts:
        if not seen or seen[-1][1] != count.running:
            seen.append((round(count.time_s, 1), count.running))
    return seen


def arrival(at_s: float, output: int, prompt: int = 1, tenant: str = "a", cap: int = 0) -> Arrival:
    return Arrival(at_s, tenant, "t", prompt, output, cap or output)


def mean_wait(simulation: Simulation) -> float:
    waits = [request.wait_s for request in simulation.requests if request.wait_s is not None]
    return sum(waits) / len(waits)
