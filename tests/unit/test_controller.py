"""The controller on simulated replicas whose laws are known (tests/arms.py)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from s2d_ray.core.goodput import PLAIN, goodput
from s2d_ray.engine.controller import EXPLORED, EXPLORED_FROM_PLAIN, Controller
from s2d_ray.engine.live_costs import LONGEST, Ratio, StepWork
from tests.arms import ACCEPTED, COSTS, Arms, after_shifts, best, candidates
from tests.recorded import recorded

KINDS = tuple(ACCEPTED)


def in_force(arms: Arms) -> int:
    """Longest proposal of the plan that its rows follow now."""
    plans = arms.controller.plans()[arms.named]
    return plans[1 << arms.num_rows.bit_length()].candidate.plan.max_proposal


@pytest.mark.parametrize("num_rows", [1, 3, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_with_the_plan_that_calibration_found_best(kind: str, num_rows: int) -> None:
    arms = Arms(0, kind, kind, num_rows=num_rows, frozen=True)
    arms.step()
    assert in_force(arms) == best(kind, num_rows).plan.max_proposal


@pytest.mark.parametrize("seed", range(3))
def test_whatever_it_is_told_it_chooses_among_the_candidates(seed: int) -> None:
    rng = random.Random(seed)
    tables = {kind: candidates(kind) for kind in KINDS}
    controller = Controller(tables, COSTS, random.Random(seed))
    for _ in range(600):
        num_rows = rng.randint(1, 70)
        chosen = controller.begin(KINDS, num_rows, frozen=False)
        for task, choice in chosen.items():
            assert choice.candidate is tables[task][choice.index]
            controller.learn(choice, rng.randint(1, 8), rng.choice([0, 0, 3, 64, 500]))
        drafted = [choice.candidate for choice in chosen.values()] * rng.randint(0, 3)
        times = [rng.choice([0.0, 1e-6, 0.01, 5.0, 1e4]) for _ in range(2)]
        asked = len(drafted)
        controller.took(StepWork(num_rows, num_rows * 3, *times, drafted, asked, asked // 2))
        for change in controller.decide(KINDS, num_rows, sum(times)):
            assert change.before != change.after
            assert change.task in str(change)


@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_the_best_plan_of_texts_that_its_calibration_did_not_know(
    task: str, kind: str, num_rows: int
) -> None:
    """To within the margin that keeps it from changing for little."""
    arms = Arms(1, task, kind, num_rows=num_rows)
    arms.serve(120)
    found = next(c for c in candidates(kind) if c.plan.max_proposal == in_force(arms))
    worth, most = (goodput(each, COSTS, num_rows) for each in (found, best(kind, num_rows)))
    assert worth > 0.93 * most


@pytest.mark.parametrize("seed", range(3))
def test_steady_traffic_brings_at_most_three_changes_in_100_requests(seed: int) -> None:
    """Also where two plans are nearly as good, and the number of texts goes up and down."""
    for kind, num_rows in (("code", 1), ("translation", 2)):
        arms = Arms(seed, kind, kind, num_rows=num_rows)
        for _ in range(2):
            before = len(arms.changes)
            arms.serve(100)
            assert len(arms.changes) - before <= 3
    varying = Arms(seed, "prose", "prose")
    while varying.num_ended < 100:
        varying.num_rows = max(1, min(8, varying.num_rows + varying.rng.choice([-1, 0, 1])))
        varying.run(0.3)
    assert len(varying.changes) <= 3


@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_after_a_shift_requests_51_to_100_reach_95_percent_of_the_new_best_plan(
    seed: int, num_rows: int
) -> None:
    """What plans are worth is taken from the law, so that it is they that are compared."""
    assert min(after_shifts(seed, num_rows)) > 0.95


@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_holds_on_real_texts(seed: int, num_rows: int) -> None:
    """Of SmolLM2, with the guesses of the shipped draft in them, and costs as measured. Half of the
    texts were calibrated on, the others are served. Each request names its class."""
    assert min(after_shifts(seed, num_rows, recorded(), task=None)) > 0.95


@pytest.mark.parametrize("trouble", ["slow", "busy"])
@pytest.mark.parametrize("num_rows", [1, 4])
def test_a_draft_that_is_overloaded_is_not_asked_a_second_later(
    trouble: str, num_rows: int
) -> None:
    """And asked again once it is well."""
    arms = Arms(2, "code", "code", num_rows=num_rows)
    arms.run(5.0)
    assert in_force(arms) > 0
    arms.slower, arms.busy = (6.0, 0.0) if trouble == "slow" else (1.0, 1.0)
    arms.run(1.1)
    assert in_force(arms) == 0
    num_changes = len(arms.changes)
    arms.run(60.0)
    assert len(arms.changes) <= num_changes + 1, "it goes to and fro"
    arms.slower, arms.busy = 1.0, 0.0
    arms.run(60.0)
    assert in_force(arms) > 0


def test_more_texts_shorten_the_proposals_in_the_very_next_step() -> None:
    arms = Arms(0, "prose", "prose", frozen=True)
    for num_rows in (1, 12, 1, 6, 12):
        choice = arms.controller.begin(("prose",), num_rows, frozen=True)["prose"]
        assert choice.candidate is best("prose", num_rows)
        assert f"fewer than {1 << num_rows.bit_length()} texts" in choice.why
    assert not arms.changes


def test_one_stalled_step_changes_nothing() -> None:
    arms = Arms(3, "code", "code")
    arms.run(5.0)
    before = in_force(arms)
    arms.slower = 1_000.0
    arms.step()
    arms.slower = 1.0
    arms.run(5.0)
    assert in_force(arms) == before
    assert not arms.changes


@pytest.mark.parametrize("kind", ["code", "translation"])
def test_other_plans_are_tried_in_few_steps(kind: str) -> None:
    arms = Arms(4, kind, kind, num_rows=4)
    arms.serve(300)
    most = EXPLORED_FROM_PLAIN if in_force(arms) == 0 else EXPLORED
    tried = sum(n for plan, n in arms.used.items() if plan.max_proposal != in_force(arms))
    assert 0 < tried / sum(arms.used.values()) < 2 * most


def test_while_it_is_frozen_nothing_is_tried_and_nothing_changes() -> None:
    arms = Arms(5, "code", "code")
    arms.serve(20)
    before = in_force(arms)
    arms.frozen, arms.kind = True, "translation"
    arms.used.clear()
    arms.serve(100)
    assert {plan.max_proposal for plan in arms.used} == {before}
    arms.frozen = False
    arms.serve(60)
    assert in_force(arms) < before, "what it saw meanwhile counts"


def test_a_class_with_plain_decoding_alone_has_nothing_to_try() -> None:
    controller = Controller({"chat": [PLAIN]}, COSTS, random.Random(0))
    for _ in range(1_000):
        assert controller.begin(("chat",), 2, frozen=False)["chat"].candidate is PLAIN
        controller.took(StepWork(2, 2, 0.0, 0.03))
        assert not controller.decide(("chat",), 2, 0.03)


def test_two_plans_of_one_class_are_told_apart_by_what_is_seen() -> None:
    """Calibration was wrong about one of two plans of equal length."""
    short, other = candidates("code")[2], candidates("code")[2]
    other = replace(other, committed=other.committed + 0.2)
    arms = Arms(6)
    arms.controller = Controller({"code": [PLAIN, short, other]}, COSTS, random.Random(0))
    start = arms.controller.begin(("code",), 1, frozen=True)["code"]
    assert start.candidate is other
    for _ in range(3_000):
        choice = arms.controller.begin(("code",), 1, frozen=False)["code"]
        accepted = {0: 0.0, 1: short.committed - 1.0, 2: 0.6}[choice.index]
        arms.controller.learn(choice, 10, round(10 * accepted))
        arms.controller.decide(("code",), 1, 0.04)
    assert arms.controller.begin(("code",), 1, frozen=True)["code"].candidate is short


def test_a_ratio_follows_what_it_sees_and_keeps_it_while_it_sees_nothing() -> None:
    ratio = Ratio(memory=0.5, prior=0.02)
    assert ratio.value() == 1.0
    assert ratio.value(1.5) == 1.5
    for _ in range(100):
        ratio.take(0.03, 0.01)
    assert ratio.value() == pytest.approx(3.0, rel=0.2)
    ratio.take(1_000.0, 0.01)
    assert ratio.value() < 1.2 * LONGEST
