"""The simulator against what is known without it: formulas, bounds, a schedule by hand, Serve."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.serve import autoscaling_policy as serves
from ray.serve.config import AutoscalingConfig

from s2d_ray.policy.fair_queue import Ask, quantum_of
from s2d_ray.policy.ledger import Bounds, Granted
from s2d_ray.policy.limits import Limits
from s2d_ray.policy.scaling import ScaleBy, ScalingRule, TargetLoad
from s2d_ray.simulate import autoscaler as ours
from s2d_ray.simulate.figures import figures
from s2d_ray.simulate.request import Arrival
from s2d_ray.simulate.service import Scaling, Simulation
from s2d_ray.simulate.traces import Kind, draw_trace
from tests.queueing import Line
from tests.simulating import MIX, Site, arrival, costs, flat, mean_wait
from tests.theorems.test_fairness import excess

some_arrivals = st.lists(
    st.builds(
        arrival,
        st.floats(0, 20),
        st.integers(1, 40),
        st.integers(1, 600),
        st.sampled_from(["a", "b", "unknown"]),
        st.integers(40, 80),
    ),
    max_size=60,
).map(lambda found: sorted(found, key=lambda each: each.at_s))


@settings(max_examples=60, deadline=None)
@given(some_arrivals, st.integers(0, 3), st.integers(1, 4), st.floats(0.5, 60), st.integers(1, 30))
def test_every_arrival_ends_as_finished_refused_or_open(
    arrivals: list[Arrival], num_replicas: int, max_batch: int, until_s: float, max_open: int
) -> None:
    """Any load, limits, deadlines; and each request's times are in order."""
    tenants = {"a": Limits(tokens_per_minute=4_000, max_waiting=5), "b": Limits(max_running=2)}
    site = Site(
        num_replicas=num_replicas,
        max_batch=max_batch,
        tenants=tenants,
        bounds=Bounds(max_open, 10**5),
        max_wait_s=4.0,
    )
    run = site.run(arrivals, until_s)
    target: dict[str, Any] = figures(run)["targets"]["t"]
    assert target["arrived"] == sum(each.at_s <= until_s for each in arrivals)
    assert target["finished"] == run.ledger.counters["finished"]
    still_open = run.ledger.num_waiting + run.ledger.running("t")
    assert target["open"] == still_open
    assert target["arrived"] == target["finished"] + sum(target["refused"].values()) + still_open
    for each in run.requests:
        times = [each.arrival.at_s, each.granted_s, each.started_s, each.first_s, each.ended_s]
        known = [time_s for time_s in times if time_s is not None]
        assert known == sorted(known)
        assert known == times[: len(known)]
        assert each.reason is None or len(known) == 1


def test_littles_law_holds_over_a_long_steady_run() -> None:
    """Requests in the system, sampled, are the rate times the mean time in it."""
    trace = draw_trace(Kind.STEADY, MIX, duration_s=1_500, per_s=1.5, seed=3)
    run = Simulation(Site(num_replicas=1).service(), trace, 1)
    samples: list[float] = []
    run.clock.every(0.5, lambda: samples.append(run.load("t").requests))
    run.run(1_500)
    ended = [each for each in run.requests if each.ended_s is not None]
    assert len(ended) > 0.99 * len(run.requests)
    stay_s = sum((each.ended_s or 0.0) - each.arrival.at_s for each in ended) / len(ended)
    assert sum(samples) / len(samples) == pytest.approx(len(ended) / 1_500 * stay_s, rel=0.02)


def exponential(rate: float, mean_tokens: int, seed: int) -> Iterator[Arrival]:
    draw, at_s = random.Random(seed), 0.0
    while True:
        at_s += draw.expovariate(rate)
        yield arrival(at_s, max(1, round(draw.expovariate(1 / mean_tokens))))


def erlang_c_wait_s(servers: int, load: float) -> float:
    """Mean wait in services, of an M/M/c queue with `load` busy servers in the mean."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    others = sum(load**n / math.factorial(n) for n in range(servers))
    return last / (others + last) / (servers - load)


@pytest.mark.parametrize(("num_replicas", "max_batch"), [(1, 1), (2, 1), (1, 4)])
def test_exponential_service_waits_as_erlang_says(num_replicas: int, max_batch: int) -> None:
    """M/M/c with c = 1 and 2 replicas of one slot, and with one replica of four slots."""
    servers, step_s, mean_tokens = num_replicas * max_batch, 0.001, 1_000
    load = 0.6 * servers
    until_s = 9_000 / load
    site = Site(num_replicas=num_replicas, max_batch=max_batch, costs=flat(step_s))
    run = site.run(exponential(load, mean_tokens, seed=5), until_s)
    assert mean_wait(run) == pytest.approx(erlang_c_wait_s(servers, load), rel=0.1)


def test_a_small_schedule_is_as_computed_by_hand() -> None:
    """The first prompt is read at once; the second one in quarters beside the first text."""
    found = costs({(1, 1): 1.0, (2, 1): 1.5, (1, 2): 1.0, (2, 2): 1.5}, {4: 2.0}, {1: 1.0, 2: 1.0})
    site = Site(max_batch=2, prefill_chunk=4, costs=found)
    trace = [arrival(0.0, 3, prompt=4), arrival(0.5, 2, prompt=4), arrival(0.6, 1, prompt=4)]
    first, second, third = site.run(trace, 100).requests
    assert (first.started_s, first.first_s, first.ended_s) == (0.0, 2.0, 4.0)
    # Two of its tokens beside the first text, 1 s each; the other two alone: 1 s + 1/3 s.
    assert second.started_s == 2.0
    assert second.first_s == pytest.approx(4.0 + 4 / 3)
    # Granted when the first one ended, it joins behind the step under way; one token beside the
    # second text's last one, the other three alone.
    assert third.granted_s == 4.0
    assert third.started_s == second.first_s
    assert second.ended_s == pytest.approx(4.0 + 4 / 3 + 1.0)
    assert third.first_s == pytest.approx(4.0 + 4 / 3 + 1.0 + 5 / 3)
    assert third.ended_s == third.first_s


@pytest.mark.parametrize("kind", list(Kind))
def test_the_same_seed_gives_the_same_run_and_another_one_another(kind: Kind) -> None:
    def run(seed: int) -> dict[str, Any]:
        trace = draw_trace(kind, MIX, duration_s=200, per_s=3.0, seed=seed)
        return figures(Site(num_replicas=2).run(trace, 200, seed))

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("kind", list(Kind))
def test_more_replicas_never_raise_the_mean_wait(kind: Kind) -> None:
    waits = []
    for num_replicas in (1, 2, 3, 5, 8):
        trace = draw_trace(kind, MIX, duration_s=100, per_s=6.0, seed=4)
        waits.append(mean_wait(Site(num_replicas=num_replicas).run(trace, 1_000)))
    assert waits == sorted(waits, reverse=True)
    assert waits[0] > 2 * waits[-1]


def test_the_ledgers_bound_is_kept_in_the_simulation() -> None:
    """Beside a flood of long requests, others get their quanta; see `test_fairness`."""
    weights = {"a": 1.0, "b": 4.0, "c": 0.25}
    tenants = {
        name: Limits(max_running=10**6, max_waiting=10**6, weight=weight)
        for name, weight in weights.items()
    }
    trace = draw_trace(Kind.BURSTY, MIX, duration_s=60, per_s=4.0, seed=2)
    run = Simulation(Site(tenants=tenants, max_batch=4).service(), trace, 1)
    line = _recorded(run)
    run.run(120)
    assert max(each.wait_s or 0.0 for each in run.requests) > 5
    quanta = {name: quantum_of(weight) for name, weight in weights.items()}
    assert excess(line, quanta, dict.fromkeys(weights, 1)) <= 0


def _recorded(run: Simulation) -> Line:
    """What goes in and out of the run's ledger, from now on."""
    line, asks = Line(), dict[str, Ask]()
    admit, decide = run.ledger.admit, run.ledger.decide

    def admitting(ask: Ask, now_s: float) -> None:
        asks[ask.id] = ask
        line.events.append(("arrived", ask))
        admit(ask, now_s)

    def deciding(now_s: float) -> Any:
        decisions = decide(now_s)
        line.events += [
            ("granted", asks[each.grant.id]) for each in decisions if isinstance(each, Granted)
        ]
        return decisions

    run.ledger.admit, run.ledger.decide = admitting, deciding  # type: ignore[method-assign]
    return line


counts = st.integers(0, 12)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(counts, counts, st.floats(0.05, 3)), min_size=1, max_size=40),
    st.floats(0.3, 2),
    st.floats(0.3, 2),
    st.sampled_from([0.0, 1.0, 4.0]),
    st.sampled_from([0.0, 2.0, 5.0]),
    st.sampled_from([None, 3.0]),
)
def test_factors_and_delays_are_serves_own(
    script: list[tuple[int, int, float]],
    up: float,
    down: float,
    up_s: float,
    down_s: float,
    zero_s: float | None,
) -> None:
    """Step by step beside Ray's functions, with what they decided as the next target."""
    rhythm = ours.Rhythm(10.0, up_s, down_s, zero_s, up, down)
    config = AutoscalingConfig(
        min_replicas=0,
        max_replicas=12,
        upscale_delay_s=up_s,
        downscale_delay_s=down_s,
        downscale_to_zero_delay_s=zero_s,
        upscaling_factor=up,
        downscaling_factor=down,
    )
    delay, state, target, now_s = ours.Delay(rhythm), dict[str, Any](), 1, 0.0
    for wanted, running, pause_s in script:
        now_s += pause_s
        scaled = serves._apply_scaling_factors(wanted, running, config)
        assert ours.scaled(wanted, running, rhythm) == scaled
        count = max(0, scaled)
        decided, state = serves._apply_delay_logic(count, target, config, state, _now=now_s)
        assert delay.decide(count, target, now_s) == decided
        target = decided


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 50)), min_size=1, max_size=12),
    st.integers(1, 500),
)
def test_the_mean_over_the_look_back_is_serves_own(
    script: list[tuple[int, int]], rest: int
) -> None:
    """In hundredths of a second, to which Serve rounds."""
    from ray.serve._private.common import TimeStampedValue
    from ray.serve._private.metrics_utils import time_weighted_average

    at, samples = 0, []
    for gap, value in script:
        at += gap
        samples.append((at / 100, float(value)))
    now_s = (at + rest) / 100
    series = [TimeStampedValue(*sample) for sample in samples]
    theirs = time_weighted_average(series, last_window_s=now_s - samples[-1][0])
    assert ours._mean(samples, now_s) == pytest.approx(theirs, abs=0.02)


def scaling(by: ScaleBy = ScaleBy.REQUESTS, least: int = 0, **rhythm: Any) -> Scaling:
    per_replica = 4.0 if by is ScaleBy.REQUESTS else 400.0
    return Scaling(ScalingRule(by, per_replica, least, 6), ours.Rhythm(**rhythm))


def test_a_target_wakes_for_the_first_request_and_sleeps_again() -> None:
    """It runs after its start, and is gone after the delay; nothing is lost."""
    rhythm = scaling(look_back_s=10.0, downscale_delay_s=20.0)
    site = Site(num_replicas=0, max_batch=4, scaling=rhythm, start_s=7.0, costs=flat(0.05))
    run = site.run([arrival(30.0, 20), arrival(31.0, 20)], 300.0)
    first, second = run.requests
    assert 7.0 < (first.wait_s or 0) <= 7.0 + 2 * ours.CONTROL_S
    assert first.ended_s is not None
    assert second.ended_s is not None
    changes = [(count.running, count.starting) for count in run.pools["t"].counts]
    assert changes == [(0, 0), (0, 1), (1, 0), (0, 0)]
    asleep_s = run.pools["t"].counts[-1].time_s
    assert second.ended_s + 20.0 < asleep_s < second.ended_s + 20.0 + 10.0 + 2 * 2.0 + 1


@pytest.mark.parametrize("by", list(ScaleBy))
def test_replicas_follow_a_burst_within_their_bounds_and_go_back(by: ScaleBy) -> None:
    rhythm = scaling(by, 1, look_back_s=10.0, upscale_delay_s=5.0, downscale_delay_s=30.0)
    site = Site(max_batch=4, scaling=rhythm, start_s=3.0)
    burst = [arrival(60 + number / 4, 60, 40) for number in range(240)]
    run = site.run(burst, 600.0)
    replicas = [count.running for count in run.pools["t"].counts]
    assert max(replicas) > 2
    assert max(count.running + count.starting for count in run.pools["t"].counts) <= 6
    assert replicas[-1] == 1
    assert min(count.time_s for count in run.pools["t"].counts if count.running > 1) > 60 + 5 + 3
    assert all(each.ended_s is not None for each in run.requests)


def test_at_the_target_value_nothing_moves() -> None:
    """Exactly what two replicas should carry keeps two replicas, however long."""
    autoscaler = ours.Autoscaler(scaling(least=0).rule, ours.Rhythm(10.0, 0.0, 0.0))
    for tick in range(100):
        now_s = float(tick)
        autoscaler.record(TargetLoad(running=6.0, held=2.0), now_s)
        autoscaler.push()
        assert autoscaler.decide(2, 2, 0.0, now_s) == 2
