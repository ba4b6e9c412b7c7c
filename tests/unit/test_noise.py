"""What changed beyond noise: a planted change is seen, noise is left alone."""

from __future__ import annotations

import math
import random

import pytest

from s2d_ray.report.noise import (
    LEVEL,
    Estimate,
    Paired,
    Repeats,
    by_ranges,
    by_signs,
    chance,
    holm,
    interval,
)


def drawn(draw: random.Random, count: int, change: float, noise: float) -> list[float]:
    return [math.log(change) + draw.gauss(0, noise) for _ in range(count)]


def test_all_signs_are_tried_where_there_are_few() -> None:
    """By hand: with six differences of one sign, 2 of 64 are as far from 0."""
    assert by_signs([0.1, 0.2, 0.3, 0.1, 0.2, 0.3]) == 2 / 64
    assert by_signs([1.0, -1.0] * 4) == 1.0
    assert by_signs([0.0] * 6) == 1.0
    assert by_signs([0.1] * 5) is None


def test_drawn_signs_are_as_good_as_all() -> None:
    """Fourteen differences, all tried, and with a zero more, drawn: the same chance."""
    values = drawn(random.Random(4), 14, 1.02, 0.1)
    whole, part = by_signs(values), by_signs([*values, 0.0])
    assert whole is not None
    assert part == pytest.approx(whole, abs=0.015)
    assert 0.02 < whole < 0.98


def test_a_change_of_ten_percent_is_seen_among_noise_and_noise_is_not() -> None:
    """30 questions, noise of 10 % on each ratio: 100 drawn comparisons of each kind."""
    draw = random.Random(1)
    alarms = [(by_signs(drawn(draw, 30, 1.0, 0.14)) or 1) < LEVEL for _ in range(100)]
    seen = [(by_signs(drawn(draw, 30, 0.9, 0.14)) or 1) < LEVEL for _ in range(100)]
    assert sum(alarms) / 100 < LEVEL + 0.04  # two standard errors
    assert sum(seen) / 100 > 0.9


def repeats(draw: random.Random, change: float) -> Repeats:
    low, median, high = sorted(change * math.exp(draw.gauss(0, 0.01)) for _ in range(3))
    return Repeats(median, low, high, 3)


def test_medians_of_three_runs_are_judged_by_their_ranges() -> None:
    draw = random.Random(2)
    pairs = [(repeats(draw, 1.0), repeats(draw, 1.0)) for _ in range(1_000)]
    alarms = [(by_ranges(*pair) or 1) < LEVEL for pair in pairs]
    assert 0.03 < sum(alarms) / 1_000 < 0.07
    seen = [(by_ranges(repeats(draw, 1.0), repeats(draw, 0.9)) or 1) < LEVEL for _ in range(300)]
    assert sum(seen) / 300 > 0.9


def test_what_has_no_spread_cannot_be_told() -> None:
    one = Repeats(1.0, 1.0, 1.0, 1)
    assert by_ranges(one, one) is None
    assert by_ranges(Repeats(1.0, 0.9, 1.1, 3), Repeats(1.0, 0.9, 1.1, 5)) is None
    assert chance(Paired({1: 1.0}), one) is None
    assert chance(Paired(dict.fromkeys(range(8), 1.0)), Paired({1: 2.0})) is None


def test_two_estimates_are_compared_by_their_errors() -> None:
    """A distance of two standard errors of the difference is seen once in 22 times."""
    away = math.exp(2 * math.hypot(0.03, 0.04))
    found = chance(Estimate(1.0, 0.03), Estimate(away, 0.04))
    assert found == pytest.approx(0.0455, abs=1e-4)
    assert chance(Estimate(1.0, 0.0), Estimate(1.0, 0.0)) == 1.0
    assert chance(Estimate(1.0, 0.0), Estimate(1.1, 0.0)) == 0.0


def test_holm_minds_all_comparisons() -> None:
    """By hand: .01 · 4, .02 · 3, .03 · 2, and none below the one before it."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    draw = random.Random(3)
    alarms = sum(min(holm([draw.random() for _ in range(20)])) < LEVEL for _ in range(600))
    assert alarms / 600 < LEVEL + 0.02


def test_an_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    """Of means over 40 questions; 50 drawn sets."""
    draw = random.Random(5)
    hits = 0
    for _ in range(50):
        rows = [
            (1.2 * math.exp(draw.gauss(0, 0.2)), math.exp(draw.gauss(0, 0.2))) for _ in range(40)
        ]
        low, high = interval(rows)
        hits += low <= 1.2 <= high
    assert 43 <= hits <= 50
    assert interval([(2.0, 1.0)] * 6) == (2.0, 2.0)
