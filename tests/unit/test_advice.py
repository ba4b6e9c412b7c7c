"""`s2d advise`: records, drift, forecasts, and the command as users meet it."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from s2d_ray.advice import drift, forecast
from s2d_ray.advice.forecast import DAY, Hourly, Outlook
from s2d_ray.advice.records import read_usage, usage_of
from s2d_ray.advice.report import Block, runs_out
from s2d_ray.cli import app
from s2d_ray.config import parse_config
from s2d_ray.errors import ConfigError, DataError, RunError
from s2d_ray.plan_file import parse_plan_file
from s2d_ray.policy.usage import UsageRecord
from s2d_ray.simulate.usage import BEGINS_S
from tests import plan_files
from tests.usage_records import guessed, record, simulated_days

CONFIG = plan_files.CONFIG + "prices: {currency: EUR, replica_hour: 2.0, draft_hour: 1.0}\n"
PLANS = parse_plan_file(plan_files.plan_file(), "plans").targets["small"]


def run(*words: object) -> tuple[int, str, str]:
    """-> status, stdout, stderr."""
    result = CliRunner().invoke(app, ["advise", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def answer(*words: object) -> dict[str, Any]:
    """The JSON at the end of the output."""
    status, stdout, _ = run(*words)
    assert status == 0
    found: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return found


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def written(folder: Path, records: list[UsageRecord], more: str = "") -> Path:
    path = folder / "usage.jsonl"
    path.write_text("".join(f"{each.line()}\n" for each in records) + more)
    return path


# Records


def test_records_are_read_as_the_ledger_writes_them(tmp_path: Path) -> None:
    records = [dataclasses.replace(record(5.0, 2.0), queue_ms=500.0), record(1.0, 2.0)]
    usage, skipped = read_usage([written(tmp_path, records)] * 2)
    assert skipped == []
    assert len(usage) == 2, "a file that is named twice is read once"
    assert (usage.starts_s - BEGINS_S).tolist() == pytest.approx([1.0, 5.5])
    assert usage.span_s == pytest.approx((BEGINS_S + 1.0, BEGINS_S + 7.0))
    assert usage.prompt_tokens.tolist() == [20, 20]
    assert usage_of(records).starts_s.tolist() == usage.starts_s.tolist()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"target": "a"}', "tenant: missing"),
        ('{"target": "a", "tenant": 3}', "tenant: not a text"),
        ('{"target": "a", "tenant": "t"}', "ended_s: missing"),
        ('{"target": "a", "tenant": "t", "ended_s": "now"}', "ended_s: not a number"),
        ('{"target": "a", "tenant": "t", "ended_s": true}', "ended_s: not a number"),
        ('{"target": "a", "tenant": "t", "ended_s": -1}', "ended_s: -1 is out of range"),
        ('{"target": "a", "tenant": "t", "ended_s": NaN}', "ended_s: nan is out of range"),
        ('{"target": "a", "tenant": "t", "reason": "x", "requests": 3}', "a line of refusals"),
    ],
)
def test_a_bad_line_is_told_by_its_place_and_skipped(
    tmp_path: Path, line: str, reason: str
) -> None:
    path = written(tmp_path, [record()], f"\n{line}\n{record().line()}\n")
    usage, skipped = read_usage([path])
    assert len(usage) == 2
    [told] = skipped
    assert told.startswith(f"{path}:3: {reason}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl: cannot be read"):
        read_usage([tmp_path / "nothing.jsonl"])


# Drift


def test_without_drift_hardly_a_report_warns_and_a_real_one_is_told() -> None:
    """200 reports of texts whose guesses are alike: a test that took guesses for independent would
    warn in an eighth of them."""
    false = 0
    for seed in range(200):
        found = drift.between_halves(usage_of(guessed([0.6] * 80, seed)))
        assert found is not None
        false += bool(drift.warnings_of({"small": [found]}))
    assert false <= 8
    drifted = drift.between_halves(usage_of(guessed([0.6] * 80 + [0.45] * 80, 1)))
    assert drifted is not None
    [told] = drift.warnings_of({"small": [drifted]})
    assert told.startswith("small: 4")
    assert "in the older half" in told


def test_a_plan_file_whose_classes_enclose_what_is_seen_is_not_drifted_from() -> None:
    """Both classes of the fixture have the same plan, of 2 committed tokens by 3 guesses."""
    assert drift.expected_shares(PLANS) == [[pytest.approx(1 / 3)]] * 2
    as_expected = drift.against_plans(usage_of(guessed([1 / 3] * 100, 1)), PLANS)
    better = drift.against_plans(usage_of(guessed([0.6] * 100, 1)), PLANS)
    assert as_expected is not None
    assert better is not None
    assert drift.warnings_of({"small": [as_expected]}) == []
    [told] = drift.warnings_of({"small": [better]})
    assert "33.3% in the plan file" in told


def test_few_requests_say_nothing_of_drift() -> None:
    few = usage_of(guessed([0.6] * drift.FEWEST, 1))
    assert drift.between_halves(few) is None
    assert drift.share_of(usage_of([record()] * 100)) is None


# Forecasts


def test_loads_are_summed_by_whole_hours_of_arrival() -> None:
    usage = usage_of([record(at) for at in (1_800.0, 3_700.0, 3_800.0, 11_000.0, 14_500.0)])
    known = forecast.hourly_of(usage, np.array([1.0, 2.0, 3.0, 4.0, 5.0]), usage.span_s)
    assert known.begins_s == BEGINS_S + 3_600
    assert known.values.tolist() == [5.0, 0.0, 4.0], "the first and the last hour are not whole"


def test_the_model_beats_the_day_before_on_simulated_days_and_its_interval_widens() -> None:
    known = simulated_days([0.02 * 1.03**day for day in range(8)], seed=1)
    told = forecast.forecast(known, 3 * DAY)
    assert told is not None
    found, trials = told
    model, naive = trials
    assert found.method == model.method
    assert model.mase < naive.mase
    assert model.coverage > 0.6
    width = np.sqrt(found.high + 3 / 8) - np.sqrt(found.likely + 3 / 8)
    assert (np.diff(width) >= -1e-9).all()
    assert width[-1] > width[0]
    assert found.begins_s == known.begins_s + 3_600 * len(known.values)


def test_weeks_are_told_apart_where_there_are_enough_of_them() -> None:
    weekend = [0.01 if day % 7 >= 5 else 0.02 for day in range(28)]
    found = forecast.structural(simulated_days(weekend, seed=2), 7 * DAY)
    by_day = found.likely.reshape(7, DAY).sum(axis=1)
    assert found.method.endswith("days and weeks")
    assert by_day[5:].max() < 0.75 * by_day[:5].min()


def test_little_data_has_the_day_before_and_less_has_nothing() -> None:
    few = Hourly(0.0, np.arange(60.0))
    told = forecast.forecast(few, 30)
    assert told is not None
    assert told[0].method == "the hour of the day before"
    assert told[0].likely == pytest.approx([*range(36, 60), *range(36, 42)])
    assert forecast.forecast(Hourly(0.0, np.arange(47.0)), 24) is None
    flat = forecast.forecast(Hourly(0.0, np.zeros(240)), 24)
    assert flat is not None
    assert flat[0].high.tolist() == [0.0] * 24


def test_a_missing_library_is_named_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "statsmodels", None)
    with pytest.raises(RunError, match=r"s2d-ray\[advise\]"):
        forecast.structural(Hourly(0.0, np.arange(240.0)), 24)


def test_capacity_runs_out_when_the_load_and_its_interval_cross_it() -> None:
    steps = np.arange(1.0, 49.0)
    told = forecast.Forecast(BEGINS_S, steps, steps - 5, steps + 5, "m")
    hour = 3_600
    crossed = Outlook(told, 20.0)
    assert crossed.earliest_s == BEGINS_S + 15 * hour
    assert crossed.likely_s == BEGINS_S + 20 * hour
    assert crossed.latest_s == BEGINS_S + 25 * hour

    def sentence(capacity: float) -> str:
        out = Outlook(told, capacity)
        times = {"earliest_s": out.earliest_s, "likely_s": out.likely_s, "latest_s": out.latest_s}
        return runs_out(times, 2)

    assert sentence(20.0) == (
        "Capacity runs out between Mon 05 Jan 2026 15:00 and Tue 06 Jan 2026 01:00, most likely "
        "Mon 05 Jan 2026 20:00."
    )
    assert "later than the next 2 days, most likely" in sentence(45.0)
    assert sentence(50.0).startswith("Capacity probably suffices for 2 days, but may run out from")
    assert sentence(60.0) == "Capacity suffices for the next 2 days."


# The command


def test_costs_of_tenants_are_told_in_money_with_what_they_rest_on(
    config: Path, tmp_path: Path
) -> None:
    """One replica for two hours: acme has it alone for the first one, half of it for half an hour
    beside zoo; then it is idle."""
    hour = 3_600.0
    records = [
        record(0.0, 1.5 * hour, tenant="acme", tokens=100, drafted=30, accepted=10),
        record(hour, 0.5 * hour, tenant="zoo", tokens=50, drafted=10, accepted=5),
        record(2 * hour, 0.0, tenant="zoo", target="/tokenize"),
    ]
    usage = written(tmp_path, records, "broken\n")
    status, stdout, stderr = run(config, "--usage", usage)
    assert status == 0
    assert f"{usage}:4: not JSON; skipped" in stderr
    found = json.loads(stdout.splitlines()[-1])
    target = found["cost"]["targets"]["small"]
    acme, zoo = target["tenants"]["acme"], target["tenants"]["zoo"]
    assert (acme["hours"], zoo["hours"], target["idle_hours"]) == pytest.approx((1.25, 0.25, 0.5))
    assert (acme["draft_hours"], zoo["draft_hours"]) == pytest.approx((1.5, 0.5))
    assert acme["cost"] == pytest.approx(2.0 * 1.25 + 1.0 * 1.5)
    assert acme["cost_per_million_output"] == pytest.approx(4.0 * 1e4)
    assert acme["cost_per_million_tokens"] == pytest.approx(4.0 * 1e4 / 3)
    assert found["cost"]["total"] == pytest.approx(2.0 * 2 + 1.0 * 2)
    assert found["usage"]["not_in_config"] == {"/tokenize": 1}
    assert any("/tokenize (1)" in each for each in found["assumptions"])
    assert "EUR per" in stdout
    assert "Assumptions" in stdout


def test_without_prices_costs_are_replica_hours_and_without_records_there_is_capacity(
    config: Path, tmp_path: Path
) -> None:
    config.write_text(plan_files.CONFIG)
    usage = written(tmp_path, [record(0.0, 3_600.0, tokens=100)])
    found = answer(config, "--usage", usage, "--json")
    target = found["cost"]["targets"]["small"]
    assert target["cost"] is None
    assert target["hours_per_million_output"] == pytest.approx(1e4)
    bare = answer(config, "--load", 40, "--json")
    assert bare["cost"] is None
    needed = bare["replicas"]["small"]["needed"]
    assert needed > 1
    assert bare["warnings"] == [f"small: the load needs {needed} replicas, of at most 1"]
    assert bare["replicas"]["small"]["cost_per_hour"] is None
    assert any("no usage records" in each for each in bare["assumptions"])


def test_the_plan_file_gives_costs_and_acceptance_and_other_acceptance_other_replicas(
    config: Path, tmp_path: Path
) -> None:
    plans = tmp_path / "plans.json"
    plans.write_text(json.dumps(plan_files.plan_file()))
    found = answer(config, "--plans", plans, "--load", 200, "--json")
    assert any("(plan file)" in each for each in found["assumptions"])
    assert any("on h, commit c" in each for each in found["assumptions"])
    assert not any("packaged" in each for each in found["assumptions"])
    by_hand = [
        answer(config, "--plans", plans, "--load", 200, "--acceptance", chance, "--json")
        for chance in (0.0, 0.9)
    ]
    needed = [each["replicas"]["small"]["needed"] for each in by_hand]
    assert needed[0] > needed[1]
    assert [each["draft"]["pays"] for each in by_hand] == [False, True]


def test_records_of_the_state_folder_are_found_and_older_files_with_them(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    tenancy = f"tenancy: {{file: {tmp_path}/tenants.yaml, state_dir: {tmp_path}}}\n"
    config.write_text(CONFIG + tenancy)
    written(tmp_path, [record()]).rename(tmp_path / "usage.jsonl.1")
    written(tmp_path, [record()])
    assert answer(config, "--json")["usage"]["requests"] == 2


def test_a_forecast_is_told_drawn_and_written(config: Path, tmp_path: Path) -> None:
    """Two days are enough for the day before."""
    records = [record(1_800.0 * n, tokens=100) for n in range(100)]
    usage = written(tmp_path, records)
    out = tmp_path / "out"
    found = answer(config, "--usage", usage, "--forecast-days", 1, "--out", out)
    tokens = found["forecast"]["small"]["tokens"]
    assert tokens["likely"] == pytest.approx([200.0] * 24)
    assert found["forecast"]["small"]["runs_out"]["earliest_s"] is None
    assert any("as the day before" in each for each in found["assumptions"])
    assert {path.suffix for path in out.iterdir()} == {".md", ".json", ".png"}
    [page] = out.glob("*.md")
    assert "| requests |" in page.read_text()
    assert "Capacity suffices for the next 1 days." in page.read_text()


def test_a_forecast_of_nothing_is_refused(config: Path) -> None:
    with pytest.raises(DataError, match="--forecast-days"):
        run(config, "--forecast-days", 1)


def test_a_price_of_nothing_is_refused_by_its_key() -> None:
    for prices, key in (
        ("{currency: EUR, targets: {big: 1.0}}", "prices.targets.big"),
        ("{currency: EUR, placements: {gpu: 1.0}}", "prices.placements.gpu"),
        ("{currency: EUR, replica_hour: -1}", "prices.replica_hour"),
        ("{replica_hour: 1}", "prices.currency"),
    ):
        with pytest.raises(ConfigError, match=key):
            parse_config(f"{plan_files.CONFIG}prices: {prices}\n", "c")


def test_the_nearest_price_of_a_target_counts() -> None:
    text = """
targets:
  named: {model: hub:a/b, placement: gpu}
  placed: {model: hub:a/b, placement: gpu}
  other: {model: hub:a/b}
prices: {currency: EUR, replica_hour: 1, placements: {gpu: 2}, targets: {named: 3}}
"""
    config = parse_config(text, "c")
    assert config.prices is not None
    found = {name: config.prices.of(name, target) for name, target in config.targets.items()}
    assert found == {"named": 3, "placed": 2, "other": 1}


def test_a_bar_in_a_name_does_not_break_a_table() -> None:
    assert "| a\\|b |" in Block("t", ("c",), (("a|b",),)).markdown()
