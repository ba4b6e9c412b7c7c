"""Scaling: bounded, monotone, and at rest where every replica carries what it should."""

from __future__ import annotations

import dataclasses
import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from s2d_ray.policy.scaling import ScaleBy, ScalingRule, TargetLoad, wanted_replicas

amount = st.floats(0.0, 1e7)
loads = st.builds(TargetLoad, amount, amount, amount, amount, amount)
rules = st.builds(
    lambda by, per_replica, low, span: ScalingRule(by, per_replica, low, max(1, low + span)),
    st.sampled_from(ScaleBy),
    st.floats(0.01, 1e6),
    st.integers(0, 1_000),
    st.integers(0, 1_000),
)
unbounded = [ScalingRule(by, 4.0, 0, 10**9) for by in ScaleBy]


@given(loads, rules)
def test_it_never_leaves_its_bounds(load: TargetLoad, rule: ScalingRule) -> None:
    assert rule.min_replicas <= wanted_replicas(load, rule) <= rule.max_replicas


@given(loads, loads, rules)
def test_more_load_never_wants_fewer_replicas(
    load: TargetLoad, more: TargetLoad, rule: ScalingRule
) -> None:
    both = TargetLoad(*map(sum, zip(*map(dataclasses.astuple, (load, more)), strict=True)))
    assert wanted_replicas(load, rule) <= wanted_replicas(both, rule)


@given(loads, rules, st.floats(1.0, 100.0))
def test_a_replica_that_should_carry_more_never_wants_more_of_them(
    load: TargetLoad, rule: ScalingRule, times: float
) -> None:
    roomier = dataclasses.replace(rule, per_replica=rule.per_replica * times)
    assert wanted_replicas(load, roomier) <= wanted_replicas(load, rule)


@given(st.sampled_from(ScaleBy), st.integers(1, 1_000), st.floats(0.01, 1e6))
def test_it_is_at_rest_at_the_target_value(by: ScaleBy, replicas: int, per_replica: float) -> None:
    carried = replicas * per_replica
    load = TargetLoad(running=carried, outstanding_tokens=carried)
    assert wanted_replicas(load, ScalingRule(by, per_replica, 0, 10_000)) == replicas


@given(loads, rules)
def test_what_it_wants_carries_the_load_and_one_replica_less_would_not(
    load: TargetLoad, rule: ScalingRule
) -> None:
    wanted = wanted_replicas(load, rule)
    carried = load.requests if rule.by is ScaleBy.REQUESTS else load.tokens
    if wanted < rule.max_replicas:
        assert carried <= (wanted + 1e-5) * rule.per_replica
    if wanted > max(1, rule.min_replicas):
        assert carried > (wanted - 1) * rule.per_replica


def test_every_request_counts_once_wherever_it_is() -> None:
    by_requests, by_tokens = unbounded
    for running, queued, held in itertools.product(range(7), repeat=3):
        load = TargetLoad(running, queued, held, outstanding_tokens=4 * running, held_tokens=held)
        assert wanted_replicas(load, by_requests) == math.ceil((running + queued + held) / 4)
        least = 1 if queued or held else 0
        assert wanted_replicas(load, by_tokens) == max(least, math.ceil(running + held / 4))


def test_one_request_of_unknown_length_keeps_one_replica() -> None:
    for rule in unbounded:
        assert wanted_replicas(TargetLoad(), rule) == 0
        assert wanted_replicas(TargetLoad(queued=0.01), rule) == 1
