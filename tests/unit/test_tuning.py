"""`s2d calibrate` and `s2d sweep` on tiny random models, and the parts that need no model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2d_ray.bench.card import host_card
from s2d_ray.config import AppConfig
from s2d_ray.core.calibration import AcceptanceModel, Sample
from s2d_ray.core.cascade import Plan
from s2d_ray.core.goodput import PLAIN, goodput
from s2d_ray.core.replay import Spot, Trace
from s2d_ray.core.threads import OneThread
from s2d_ray.errors import ConfigError, DataError
from s2d_ray.plan_file import load_plan_file
from s2d_ray.policy.tasks import Task
from s2d_ray.tuning import calibrate, sweep
from s2d_ray.tuning.acceptance import fit, samples, tier0_samples
from s2d_ray.tuning.calibrate_report import modelled
from s2d_ray.tuning.gather import Scale
from s2d_ray.tuning.predict import Predictor
from s2d_ray.tuning.prompts import built_in
from s2d_ray.tuning.published import TARGETS, modelled_costs
from s2d_ray.tuning.search import Grid, ranked, replay_all
from s2d_ray.tuning.sweep_plans import Axes
from s2d_ray.tuning.trace_file import TRACES, read_traces
from tests.tiny import tiny_checkpoint, whole_draft
from tests.unit.test_cost_model import COSTS

EXITS = (2, 4)
SCALE = Scale(max_new_tokens=14, temperatures=(0.0, 0.7), limit=3, repeats=1)
GRID = Grid(lengths=(1, 2), stops=(0.0, 0.2), chances=(0.5,))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with OneThread():
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> calibrate.Settings:
    folder = tmp_path_factory.mktemp("tuning")
    model = tiny_checkpoint(folder / "target")
    whole_draft(folder / "draft", model, EXITS)
    config = AppConfig.model_validate(
        {
            "targets": {"tiny": {"model": str(model), "num_threads": 1}},
            "draft": {
                "checkpoint": str(folder / "draft"),
                "num_threads": 1,
                "deadline_ms": 60_000,
            },
            "plan": {"exit_thresholds": [0.5], "max_proposal": 2, "min_match": 0},
        }
    )
    work = folder / "work"
    return calibrate.Settings(
        config, built_in(0), work, work / "plans.json", SCALE, GRID, hop_s=0.001
    )


@pytest.fixture(scope="module")
def calibrated(settings: calibrate.Settings) -> calibrate.Settings:
    assert calibrate.run(settings) == 0
    return settings


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_calibration_writes_the_best_plans_of_each_class(calibrated: calibrate.Settings) -> None:
    """A file that fits the config, whose order is that of its own costs, plain among them."""
    plans = load_plan_file(calibrated.out)
    assert not list(plans.troubles(calibrated.config))
    tiny = plans.targets["tiny"]
    assert set(tiny.classes) == set(Task)
    assert tiny.costs.hop_s == 0.001
    for found in tiny.classes.values():
        speeds = [goodput(each, tiny.costs, 1) for each in found.kept()]
        assert speeds == sorted(speeds, reverse=True)
        assert any(each.is_plain for each in found.kept())
        assert [row.goodput[1] for row in found.candidates] == pytest.approx(speeds)
        assert found.texts == 2  # one prompt at two temperatures
    assert {each.name for each in calibrated.work.glob("*.png")} == {
        f"reliability-tiny-{task}.png" for task in Task
    }


def test_a_killed_calibration_goes_on_to_the_same_plans(
    calibrated: calibrate.Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing that is on the disk is done again; half a line is."""
    traces, plans = calibrated.work / TRACES, calibrated.out.read_text()
    whole = traces.read_bytes()
    traces.write_bytes(whole[:-50])
    assert calibrate.run(calibrated) == 0
    assert traces.read_bytes() == whole
    assert json.loads(calibrated.out.read_text()) == json.loads(plans)
    line = last_line(capsys)
    assert set(line["targets"]["tiny"]) == set(Task)
    for one in line["targets"]["tiny"].values():
        low, high = one["interval"]
        assert low <= one["predicted_over_plain"] <= high
    assert set(line["targets"]["tiny"]["chat"]["modelled_gpu"]) == {each.name for each in TARGETS}


def test_other_settings_do_not_mix_with_what_was_gathered(calibrated: calibrate.Settings) -> None:
    with pytest.raises(DataError, match="was begun with seed 1, not 2"):
        calibrate.run(replace(calibrated, seed=2))
    with pytest.raises(ConfigError, match="none of the config's: tiny"):
        calibrate.run(replace(calibrated, targets=("other",)))


def test_a_card_names_the_targets_that_are_measured(settings: calibrate.Settings) -> None:
    """And not the config's first where another was asked for."""
    tiny = settings.config.targets["tiny"]
    packed = tiny.model_copy(update={"precision": "int8"})
    config = settings.config.model_copy(update={"targets": {"tiny": tiny, "packed": packed}})
    assert host_card(config)["target"] == "target: float32"
    assert host_card(config, ["packed"])["target"] == "target: int8"
    assert host_card(config, ["tiny", "packed"])["target"] == "target: float32; target: int8"


def test_a_sweep_measures_every_plan_beside_its_prediction(
    calibrated: calibrate.Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All with the ids of plain decoding; a second run measures nothing anew."""
    settings = sweep.Settings(
        calibrated.config,
        load_plan_file(calibrated.out),
        read_traces(calibrated.work),
        built_in(1),
        tmp_path / "sweep",
        SCALE,
        Axes((0.0, 1.0), (2,)),
        crowds=(1, 2),
        runs=1,
    )
    assert sweep.run(settings) == 0
    line = last_line(capsys)
    assert set(line["by_plan"]) == {"configured", "t0-n2", "t1-n2", "planned"}
    for one in line["by_plan"].values():
        assert one["identical"]
        assert one["predicted"] > 0
        assert one["measured"] > 0
    best = line["best"]
    assert best["predicted"] == max(one["predicted"] for one in line["by_plan"].values())
    assert best["measured"] == line["by_plan"][best["plan"]]["measured"]
    assert set(line["by_concurrency"]) == {"1", "2"}
    assert line["min_group_speedup"] == min(line["by_group"].values())
    assert {each.name for each in (tmp_path / "sweep").glob("*.png")} == {
        "heat-tiny.png",
        "prediction-tiny.png",
    }
    assert sweep.run(settings) == 0
    assert last_line(capsys) == line


def test_a_sweep_refuses_plans_of_another_config_or_of_other_weights(
    calibrated: calibrate.Settings, tmp_path: Path
) -> None:
    plans = load_plan_file(calibrated.out)
    traces = read_traces(calibrated.work)
    settings = sweep.Settings(
        calibrated.config, plans, traces, built_in(1), tmp_path, SCALE, Axes((), ()), (), 1
    )
    with pytest.raises(DataError, match="no trace of tiny, chat"):
        sweep.run(replace(settings, traces=[each for each in traces if each[1] != "chat"]))
    other = plans.draft.model_copy(update={"source": "another"})
    with pytest.raises(ConfigError, match="plan file: made for draft another"):
        sweep.run(replace(settings, plans=plans.model_copy(update={"draft": other})))
    other = plans.draft.model_copy(update={"weights": "others"})
    with pytest.raises(ConfigError, match="other weights of the draft"):
        sweep.run(replace(settings, plans=plans.model_copy(update={"draft": other})))


def text(ranks: list[tuple[int, int]], temperature: float = 0.0) -> Trace:
    """A trace of two exits by the ranks of the target's tokens; as confident as the place."""
    spots = [
        (Spot(place / 100, first), Spot(place / 100, second))
        for place, (first, second) in enumerate(ranks)
    ]
    ids = tuple(range(len(ranks) + 1))
    return Trace(EXITS, (9, 9), ids, len(ids), temperature, (), spots)


def test_a_guess_counts_at_a_depth_only_behind_right_ones() -> None:
    """The accepted prefix and the first rejection; what lies behind a rejection does not."""
    trace = text([(0, 0), (0, -1), (-1, 0), (0, 0), (1, -1)])
    assert [(s.confidence, s.accepted) for s in samples(trace, 0, 0)] == [
        (0.0, True),
        (0.01, True),
        (0.02, False),
        (0.03, True),
        (0.04, False),
    ]
    assert list(samples(trace, 0, 1)) == [
        Sample(0.01, True),
        Sample(0.02, False),
        Sample(0.04, False),
    ]
    assert list(samples(trace, 0, 3)) == []


def test_tier0_is_calibrated_on_its_first_guesses() -> None:
    """The prompt 9 9 is followed by 9 9 9: each id repeats the one before."""
    trace = replace(text([(0, 0)] * 3), output_ids=(9, 9, 9, 8), _lookups={})
    assert [sample.accepted for sample in tier0_samples(trace, 2)] == [True, True, False]


def test_maps_are_made_per_exit_temperature_and_depth_where_there_is_enough() -> None:
    right = text([(0, 0)] * 30)
    model = fit([right, text([(0, 0)] * 30), text([(-1, 0)] * 30, temperature=1.0)], 3)
    known = {(m.drafted_by, m.temperature, m.depth) for m in model.maps}
    # Exit 2 is never right at temperature 1, so nothing stands behind a right guess of its.
    exits = {(e, 0.0, d) for e in EXITS for d in (0, 1, 3)} | {(4, 1.0, d) for d in (0, 1, 3)}
    assert known - {(0, 0.0, 0)} == exits | {(2, 1.0, 0)}
    assert model.chance(2, 0.1, 1.0, 0) == 0
    assert model.chance(2, 0.1, 0.0, 0) == 1


def test_modelled_costs_are_those_of_streamed_weights() -> None:
    """The draft's share of a step falls with the target, as the published shapes have it."""
    shares = [
        modelled_costs(each, (4, 8)).draft(8, 1) / modelled_costs(each, (4, 8)).forward(1, 1)
        for each in TARGETS
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx((12 * 202.4 + 2 * 131) / 6_600)
    costs = modelled_costs(TARGETS[0], (4, 8))
    assert costs.forward(1, 8) == costs.forward(1, 1)
    plans = [PLAIN.plan, Plan((0.0,), 0.0, 2, min_match=0)]
    found = list(replay_all(plans, [text([(0, 0)] * 30)], 64, COSTS))
    told = modelled(found, EXITS)
    assert [each["published_s2d"] for each in told.values()] == [1.34, 1.38, 1.95]
    speedups = [float(each["modelled"]) for each in told.values()]
    assert speedups == sorted(speedups)
    assert 1 < speedups[0] < speedups[-1] < 3


def test_a_prediction_is_prompt_and_rounds() -> None:
    """11 tokens behind a prompt of 64: the first by the prompt, the others two a round."""
    plan = Plan((0.0,), 0.0, 1, min_match=0)
    predictor = Predictor(COSTS, {"chat": [text([(0, 0)] * 10)]}, 64)
    # 10 of 11 tokens in 5 rounds of a guess each; the last one leaves no room for a guess.
    round_s = COSTS.draft(2, 1) + COSTS.forward(1, 2)
    prompt_s = COSTS.prefill(64) + COSTS.draft(4, 64)
    assert predictor.speed(plan, "chat", 64, 11) == pytest.approx(
        11 / (prompt_s + 5 * round_s), rel=0.1
    )
    assert predictor.speed(PLAIN.plan, "chat", 64, 11) == pytest.approx(11 / (30.0 + 10 * 10.0))
    # Tier 0 alone finds nothing here, and no draft has to read the prompt for it.
    alone = Plan((), max_proposal=0, min_match=30)
    assert predictor.speed(alone, "chat", 64, 11) == predictor.speed(PLAIN.plan, "chat", 64, 11)


def test_a_plan_with_tier_0_is_searched_under_the_toll_that_it_has_without() -> None:
    """A draft step and a hop, in target forwards; whether tier 0 stands first or not."""
    bare, matched = Plan((0.0,), 0.0, 1, min_match=0), Plan((0.0,), 0.0, 1, min_match=3)
    toll = round((COSTS.draft(2, 1) + COSTS.hop_s) / COSTS.forward(1, 1), 2)
    assert toll not in (0.0, matched.draft_toll)
    texts = [text([(-1, -1)] * 30)]
    for plans in ([bare, matched], [matched]):
        *_, found = replay_all(plans, texts, 64, COSTS)
        assert found.plan == replace(matched, draft_toll=toll)


def test_tier_0_alone_is_found_where_the_draft_is_never_right() -> None:
    """A text of one token again and again: quoted as far as the longest lookup; nobody asks."""
    trace = replace(text([(-1, -1)] * 40), output_ids=(7,) * 41)
    plans = Grid((2,), (0.0,), (0.5,), lookups=(0, 4, 20)).plans(EXITS, AcceptanceModel(()))
    found = [each.candidate() for each in replay_all(plans, [trace], 64, COSTS)]
    best = ranked(found, COSTS, 1)[0]
    assert best.plan == Plan((), max_proposal=0, max_lookup=20)
    assert (best.asked, best.is_plain) == (0.0, False)
    assert best.committed == 5.0
