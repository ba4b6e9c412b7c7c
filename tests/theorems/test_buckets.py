"""Token buckets: no interleaving of takes and refunds gets more out of one than it holds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.policy.buckets import Bucket

CAPACITY = 600
SLACK = 1e-6
"""Tokens; sums of floats are this near."""

steps = st.lists(
    st.tuples(
        st.floats(0.0, 90.0),  # seconds that pass
        st.integers(1, CAPACITY),  # wanted, if it is there
        st.integers(0, 3),  # how many open grants end then
        st.floats(0.0, 1.0),  # what they have used of theirs
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps)
def test_over_any_window_taken_minus_refunded_is_at_most_the_bucket_and_its_refill(
    script: list[tuple[float, int, int, float]],
) -> None:
    bucket = Bucket.full(CAPACITY, 0.0)
    now_s, flows, open_grants = 0.0, [], []
    for pause_s, amount, num_ended, share_used in script:
        now_s += pause_s
        if bucket.wait_s(amount, now_s) == 0:
            bucket.take(amount, now_s)
            flows.append((now_s, float(amount)))
            open_grants.append(amount)
        for _ in range(min(num_ended, len(open_grants))):
            unused = (1 - share_used) * open_grants.pop(0)
            bucket.refund(unused, now_s)
            flows.append((now_s, -unused))
        assert -SLACK <= bucket.level_at(now_s) <= CAPACITY
    for first, (start_s, _) in enumerate(flows):
        total = 0.0
        for end_s, flow in flows[first:]:
            total += flow
            assert total <= CAPACITY * (1 + (end_s - start_s) / 60) + SLACK


@settings(deadline=None)
@given(st.integers(1, CAPACITY), st.floats(0.0, 120.0))
def test_after_the_wait_it_names_the_amount_is_there(amount: int, pause_s: float) -> None:
    bucket = Bucket.full(CAPACITY, 0.0)
    bucket.take(CAPACITY, 0.0)
    wait_s = bucket.wait_s(amount, pause_s)
    bucket.take(amount, pause_s + wait_s + SLACK)
    assert wait_s == pytest.approx(max(0.0, amount / CAPACITY * 60 - pause_s))


def test_what_is_larger_than_the_bucket_never_fits() -> None:
    assert Bucket.full(CAPACITY, 0.0).wait_s(CAPACITY + 1, 0.0) == math.inf


def test_what_is_not_there_is_not_taken() -> None:
    bucket = Bucket.full(CAPACITY, 0.0)
    bucket.take(CAPACITY, 0.0)
    with pytest.raises(ValueError, match="holds 0"):
        bucket.take(1, 0.0)


def test_a_debt_is_paid_off_before_anything_is_taken_again() -> None:
    bucket = Bucket.full(CAPACITY, 0.0)
    bucket.owe(2 * CAPACITY, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(60.1)


def test_a_clock_that_jumps_back_refills_nothing() -> None:
    bucket = Bucket.full(CAPACITY, 100.0)
    bucket.take(CAPACITY, 100.0)
    assert bucket.level_at(40.0) == 0
    assert bucket.level_at(101.0) == pytest.approx(10)


def test_another_capacity_leaves_taken_what_was_taken() -> None:
    bucket = Bucket.full(CAPACITY, 0.0)
    bucket.take(100, 0.0)
    bucket.resize(200, 0.0)
    assert bucket.level_at(0.0) == 100
    bucket.resize(50, 0.0)
    assert bucket.level_at(0.0) == -50
