"""The plan file, the maps in it, and the classes of tasks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.config import parse_config
from s2d_ray.core.calibration import (
    AcceptanceModel,
    CalibrationMap,
    Knot,
    Sample,
    isotonic,
    mean_error,
    wilson,
)
from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel
from s2d_ray.errors import ConfigError
from s2d_ray.plan_file import load_plan_file, parse_plan_file
from s2d_ray.policy.tasks import Task, code_share, overlap, task_class
from s2d_ray.serve.plan_watch import WatchedPlans
from tests.plan_files import CONFIG, plan_file

samples = st.lists(
    st.builds(Sample, st.sampled_from([0.1, 0.2, 0.5, 0.9]), st.booleans(), st.floats(0.5, 4)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60)
@given(samples)
def test_a_map_rises_and_no_other_rising_one_is_nearer(found: list[Sample]) -> None:
    """Against all rising functions over a grid of values."""
    knots = isotonic(found)
    assert all(a.confidence < b.confidence for a, b in itertools.pairwise(knots))
    assert all(a.chance < b.chance for a, b in itertools.pairwise(knots))
    fitted = CalibrationMap(2, 0.0, 0, knots)

    def loss(at: Callable[[float], float]) -> float:
        return sum(s.weight * (at(s.confidence) - s.accepted) ** 2 for s in found)

    places = sorted({s.confidence for s in found})
    grid = (0.0, 0.25, 0.5, 1.0)
    for values in itertools.combinations_with_replacement(grid, len(places)):
        other = dict(zip(places, values, strict=True))
        assert loss(lambda c: fitted.at(c).chance) <= loss(other.__getitem__) + 1e-9
    assert sum(knot.count for knot in knots) == pytest.approx(sum(s.weight for s in found))


def test_intervals_hold_the_share_and_shrink_with_the_count() -> None:
    for share in (0.0, 0.3, 1.0):
        few, many = wilson(share, 5), wilson(share, 500)
        assert few[0] <= many[0] <= share + 1e-9
        assert few[1] >= many[1] >= share - 1e-9
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)


def test_the_calibration_error_is_nothing_for_true_chances_and_their_distance_for_others() -> None:
    true = [(0.25, True), (0.25, False), (0.25, False), (0.25, False)]
    assert mean_error(true) == 0
    assert mean_error([(0.75, fate) for _, fate in true]) == pytest.approx(0.5)


def test_a_model_goes_by_the_nearest_map_and_by_the_confidence_without_one() -> None:
    def flat(temperature: float, depth: int, chance: float) -> CalibrationMap:
        return CalibrationMap(2, temperature, depth, (Knot(0.0, chance, 0, 1, 9),))

    model = AcceptanceModel((flat(0.0, 0, 0.1), flat(0.0, 1, 0.2), flat(1.0, 1, 0.3)))
    assert model.chance(2, 0.9, 0.0, 0) == 0.1
    assert model.chance(2, 0.9, 0.2, 5) == 0.2
    assert model.chance(2, 0.9, 0.9, 0) == 0.3
    assert model.chance(4, 0.9, 0.0, 0) == 0.9


def test_a_threshold_on_chances_is_one_on_confidences() -> None:
    knots = (Knot(0.2, 0.1, 0, 1, 1), Knot(0.6, 0.5, 0, 1, 1), Knot(0.8, 0.9, 0, 1, 1))
    found = CalibrationMap(2, 0.0, 0, knots)
    assert [found.threshold_for(p) for p in (0.0, 0.3, 0.5, 0.95)] == [0.2, 0.6, 0.6, 1.0]


def test_a_plan_file_survives_json_and_gives_the_best_plan_of_a_class(tmp_path: Path) -> None:
    tree = plan_file()
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(tree))
    found = load_plan_file(path)
    assert parse_plan_file(found.model_dump(mode="json"), "again") == found
    assert found.plan_of("small", "code") == ("code", Plan((0.7,), max_proposal=3, min_match=0))
    assert found.plan_of("small", "poetry") == ("chat", Plan((0.5,), max_proposal=0, min_match=0))
    assert found.plan_of("other", "chat") is None
    assert isinstance(found.targets["small"].costs, CostModel)
    assert found.targets["small"].classes["code"].kept()[0].committed == 2.0
    assert not list(found.troubles(parse_config(CONFIG, "config")))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("version",), 2, "version 2 is not 1"),
        (("more",), 1, "more: unknown key"),
        (("targets", "small", "costs", "hop_ms"), "x", "targets.small.costs"),
        (("targets", "small", "classes", "code", "candidates", 0, "committed"), 0.5, "committed"),
        (("targets", "small", "classes", "code", "candidates", 0, "nodes"), {"1": 0.5}, "sum to 1"),
        (("targets", "small", "classes", "chat", "candidates", 0, "plan"), {}, "plain decoding"),
        (
            ("targets", "small", "classes", "code", "acceptance", 0, "knots", 0, "chance"),
            1.0,
            "knots must rise",
        ),
    ],
)
def test_a_wrong_plan_file_is_refused_by_the_key(
    place: tuple[Any, ...], value: Any, named: str
) -> None:
    tree = plan_file()
    inner = tree
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ConfigError, match=named):
        parse_plan_file(tree, "plans.json")


@pytest.mark.parametrize("text", ["no", "[1]", "{}"])
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plans.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="s2d calibrate") as caught:
        load_plan_file(path)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("head_size: 512", "head_size: 1024", "draft"),
        ("small: {model: /models/a}", "small: {model: /models/b}", "targets.small: made for"),
        ("small: {model: /models/a}", "large: {model: /models/a}", "targets.small: the config has"),
        ("draft:", "# draft:", "no draft"),
    ],
)
def test_a_plan_file_of_another_draft_or_target_is_told_by_name(
    before: str, after: str, named: str
) -> None:
    assert before in CONFIG
    config = parse_config(CONFIG.replace(before, after), "config")
    troubles = list(parse_plan_file(plan_file(), "plans.json").troubles(config))
    assert any(named in trouble for trouble in troubles)


PYTHON = "Why does this fail?\n\ndef f(x):\n    return x;\n\nfor x in y:\n    print(x);\n"
PROSE = "The river rises in the hills and runs to the sea. It is long. People fish there."


def test_classes_of_tasks_follow_what_the_prompt_looks_like() -> None:
    assert code_share(PYTHON) > 0.4
    assert code_share(f"Please read\n```\n{PROSE}\n```") > 0.8
    assert code_share(PROSE) == 0
    assert overlap(PROSE) == 0
    assert overlap(f"{PROSE} {PROSE}") > 0.4
    assert overlap("") == code_share("") == 0
    assert task_class(50, 0.0, 0.0) == Task.CHAT
    assert task_class(50, 0.5, 0.0) == Task.CODE
    assert task_class(5_000, 0.0, 0.0) == Task.CONTEXT
    assert task_class(50, 0.0, 0.5) == Task.CONTEXT


def test_a_class_that_the_request_names_wins() -> None:
    assert task_class(5_000, 0.9, 0.9, "poetry") == "poetry"


def test_a_router_takes_over_another_plan_file_and_keeps_the_last_good_one(tmp_path: Path) -> None:
    path = tmp_path / "plans.json"
    watched = WatchedPlans(path)
    assert watched.plan_of("small", "code") is None
    assert watched.trouble is not None
    path.write_text(json.dumps(plan_file()))
    watched.look()
    assert watched.trouble is None
    found = watched.plan_of("small", "code")
    assert found is not None
    assert found[1].max_proposal == 3
    path.write_text("half a file")
    watched.look()
    assert watched.trouble is not None
    assert watched.plan_of("small", "code") == found
    tree = plan_file()
    tree["targets"]["small"]["classes"]["code"]["candidates"].reverse()
    path.write_text(json.dumps(tree))
    watched.look()
    assert watched.plan_of("small", "code") == ("code", Plan((0.5,), max_proposal=0, min_match=0))
