"""Costs between and beyond what was measured, and goodput by them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel, Provenance
from s2d_ray.core.goodput import PLAIN, Candidate, DraftLevel, goodput, round_s
from s2d_ray.core.surface import Surface

ORIGIN = Provenance("a processor", "abc", "2026-11-28")
COSTS = CostModel(
    draft_s={(2, 1): 1.0, (4, 1): 2.0, (2, 4): 1.5, (4, 4): 3.0},
    forward_s={(1, 1): 10.0, (1, 3): 12.0, (4, 1): 13.0, (4, 3): 22.0},
    prefill_s={64: 30.0},
    hop_s=0.5,
    origin=ORIGIN,
)

seconds = st.floats(0.001, 100.0)


@given(st.lists(seconds, min_size=9, max_size=9))
def test_more_work_never_costs_less_whatever_was_measured(values: list[float]) -> None:
    sizes = list(itertools.product((1, 2, 8), (1, 3, 4)))
    surface = Surface(dict(zip(sizes, values, strict=True)))
    places = (0.5, 1, 1.5, 2, 5, 8, 9, 20)
    for second in places:
        line = [surface.at(first, second) for first in places]
        assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(line))
        line = [surface.at(second, first) for first in places]
        assert all(a <= b * (1 + 1e-9) for a, b in itertools.pairwise(line))


def test_a_rising_measurement_is_met_and_joined_by_lines() -> None:
    assert COSTS.draft(2, 1) == 1.0
    assert COSTS.draft(4, 4) == 3.0
    assert COSTS.forward(1, 2) == 11.0
    assert COSTS.forward(4, 3) == 22.0
    assert COSTS.prefill(64) == 30.0
    assert COSTS.draft(4, 7) == pytest.approx(4.0)
    assert COSTS.layers == (2, 4)


def test_a_missing_shape_is_made_from_the_lines_around_it() -> None:
    """(4, 2) costs what (1, 2) does, and what four texts cost more around it."""
    points = {(1, 1): 10.0, (1, 2): 10.5, (1, 3): 12.0, (4, 1): 13.0, (4, 3): 22.0}
    assert Surface(points).at(4, 2) == pytest.approx(10.5 + (3.0 + 10.0) / 2)


@pytest.mark.parametrize(
    "points", [{}, {(1, 1): 0.0}, {(1, 1): float("inf")}, {(1, 1): 1.0, (2, 3): 2.0}]
)
def test_points_that_say_nothing_are_refused(points: dict[tuple[int, int], float]) -> None:
    with pytest.raises(ValueError, match="needs"):
        Surface(points)


def test_costs_survive_json() -> None:
    for costs in (COSTS, replace(COSTS, head_s={1: 0.25, 4: 0.5})):
        assert CostModel.from_json(json.loads(json.dumps(costs.to_json()))) == costs


def test_costs_that_do_not_tell_a_head_s_are_read() -> None:
    tree = COSTS.to_json()
    del tree["head_ms"]
    assert CostModel.from_json(tree) == COSTS


def test_an_exit_that_a_plan_passes_by_is_not_scored() -> None:
    """At a threshold of 1; the deepest one always speaks."""
    costs = replace(COSTS, head_s={1: 0.25, 4: 0.5})
    passing, asking = (
        replace(fixed(2, 4, 2.5), plan=Plan((threshold,), max_proposal=2))
        for threshold in (1.0, 0.9)
    )
    assert round_s(asking, costs, 1) == round_s(asking, COSTS, 1)
    assert round_s(passing, costs, 1) == pytest.approx(round_s(asking, costs, 1) - 2 * 0.25)
    assert round_s(passing, costs, 4) == pytest.approx(round_s(asking, costs, 4) - 2 * 0.5)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda tree: tree.pop("hop_ms"), "hop_ms: missing"),
        (lambda tree: tree.update(more=1), "more: unknown key"),
        (lambda tree: tree.update(hop_ms=-1), "hop"),
        (lambda tree: tree.update(draft_ms={}), "draft"),
        (lambda tree: tree["forward_ms"].pop("1"), "costs"),
        (lambda tree: tree.update(origin={"host": "h"}), "commit"),
    ],
)
def test_wrong_costs_are_refused_by_name(spoil: Callable[[Any], object], named: str) -> None:
    tree = COSTS.to_json()
    spoil(tree)
    with pytest.raises(ValueError, match=named):
        CostModel.from_json(tree)


def fixed(levels: int, layers: int, committed: float) -> Candidate:
    """Every guess by one exit, each level one position."""
    exits = [each for each in (2, 4) if each <= layers]
    level = DraftLevel(dict.fromkeys(exits, 1.0), dict.fromkeys(exits, 1.0))
    return Candidate(Plan(max_proposal=levels), committed, {levels: 1.0}, (level,) * levels, 9)


def test_goodput_of_one_text_is_tokens_over_the_sum_of_its_calls() -> None:
    candidate = fixed(2, 4, 2.5)
    assert round_s(candidate, COSTS, 1) == pytest.approx(0.5 + 2 * 2.0 + 12.0)
    assert goodput(candidate, COSTS, 1) == pytest.approx(2.5 / 16.5)
    assert goodput(PLAIN, COSTS, 1) == pytest.approx(1 / 10)
    assert goodput(PLAIN, COSTS, 4) == pytest.approx(4 / 13)
    assert candidate.draft_steps == {2: 0.0, 4: 2.0}
    assert candidate.proposed == 2
    assert candidate.asked == 1


def test_a_group_of_layers_runs_if_any_row_goes_so_deep() -> None:
    level = DraftLevel({2: 1.0, 4: 0.5}, {2: 1.0, 4: 0.5})
    candidate = Candidate(Plan(max_proposal=1), 1.5, {1: 1.0}, (level,), 9)
    assert round_s(candidate, COSTS, 1) == pytest.approx(0.5 + 1.0 + 0.5 * 1.0 + 11.0)
    # 4 rows: 15 of 16 steps go deeper, each then with 32/15 rows on average.
    deep = COSTS.draft(4, 32 / 15) - COSTS.draft(2, 32 / 15)
    assert round_s(candidate, COSTS, 4) == pytest.approx(0.5 + 1.5 + 15 / 16 * deep + 17.5)


def test_what_a_draft_guesses_well_pays_alone_and_not_beside_many() -> None:
    """Where rows cost the target little, guesses are nearly free; in a full batch they are not."""
    candidate = fixed(2, 2, 2.0)
    assert goodput(candidate, COSTS, 1) > goodput(PLAIN, COSTS, 1)
    assert goodput(candidate, COSTS, 4) < 1.3 * goodput(PLAIN, COSTS, 4)
