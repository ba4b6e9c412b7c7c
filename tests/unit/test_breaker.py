"""The circuit breaker on a virtual clock."""

from __future__ import annotations

import pytest

from s2d_ray.engine.breaker import Circuit, CircuitBreaker


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker(max_failures=3, first_pause_s=0.5, longest_pause_s=2.0)


def fail(breaker: CircuitBreaker, *times_s: float) -> None:
    for time_s in times_s:
        breaker.failed(time_s)


def test_it_opens_at_the_third_failure_in_a_row(breaker: CircuitBreaker) -> None:
    fail(breaker, 1.0, 2.0)
    assert breaker.state(2.0) is Circuit.CLOSED
    fail(breaker, 3.0)
    assert breaker.state(3.0) is Circuit.OPEN


def test_a_success_between_failures_starts_the_count_anew(breaker: CircuitBreaker) -> None:
    fail(breaker, 1.0, 2.0)
    breaker.succeeded()
    fail(breaker, 3.0, 4.0)
    assert breaker.state(4.0) is Circuit.CLOSED


def test_after_the_pause_it_lets_a_trial_through(breaker: CircuitBreaker) -> None:
    fail(breaker, 0.0, 0.0, 10.0)
    assert breaker.state(10.49) is Circuit.OPEN
    assert breaker.state(10.5) is Circuit.HALF_OPEN


def test_a_good_trial_closes_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 0.0, 0.0, 0.0)
    breaker.succeeded()
    assert breaker.state(0.0) is Circuit.CLOSED
    fail(breaker, 1.0, 1.0)
    assert breaker.state(1.0) is Circuit.CLOSED


def test_each_bad_trial_doubles_the_pause_up_to_the_longest(breaker: CircuitBreaker) -> None:
    fail(breaker, 0.0, 0.0, 0.0)
    now_s = 0.0
    for pause_s in (0.5, 1.0, 2.0, 2.0):
        assert breaker.state(now_s + pause_s - 0.01) is Circuit.OPEN
        now_s += pause_s
        assert breaker.state(now_s) is Circuit.HALF_OPEN
        breaker.failed(now_s)
        assert breaker.state(now_s) is Circuit.OPEN


def test_after_a_success_the_pause_is_short_again(breaker: CircuitBreaker) -> None:
    fail(breaker, 0.0, 0.0, 0.0, 0.5, 1.5)
    breaker.succeeded()
    fail(breaker, 9.0, 9.0, 9.0)
    assert breaker.state(9.5) is Circuit.HALF_OPEN
