"""The exactness run's own bookkeeping: it covers what it claims, resumes, and can fail."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from s2d_ray.bench.exact import batches, open_outcomes, verdict
from s2d_ray.bench.exact_cases import (
    PROMPTS,
    TEMPERATURES,
    Outcome,
    Run,
    all_plans,
    compare,
    runs_of,
    thin_settings,
)
from s2d_ray.errors import RunError

RUNS = list(runs_of("t", len(PROMPTS), full=False))


def outcome(run: Run) -> Outcome:
    drafted = 0 if run.plan is None else 9
    return Outcome(run.key, (1, 2), "ab", "length", 5, drafted, 3, 0, 0.5)


def outcomes() -> dict[str, Outcome]:
    return {run.key: outcome(run) for run in RUNS}


def test_every_prompt_and_temperature_is_written_off_and_under_at_least_two_plans() -> None:
    forced: dict[str, set[str]] = {}
    for run in RUNS:
        if run.plan is not None:
            forced.setdefault(run.baseline_key, set()).add(run.key)
    assert {run.key for run in RUNS if run.plan is None} == forced.keys()
    assert len(forced) == len(PROMPTS) * len(TEMPERATURES) == 60
    assert min(map(len, forced.values())) >= 2


def test_each_length_and_each_threshold_setting_occurs_twenty_times() -> None:
    assert thin_settings(RUNS) == []
    assert thin_settings(RUNS[: len(RUNS) // 2]) != []


def test_half_of_the_texts_are_written_in_company() -> None:
    assert sum(run.concurrent for run in RUNS) == len(RUNS) / 2


def test_the_full_run_is_the_whole_product() -> None:
    runs = list(runs_of("t", len(PROMPTS), full=True))
    assert len(set(all_plans())) == 8 * 4
    assert len({run.key for run in runs}) == len(runs) == 60 * (1 + 32)


def test_every_run_is_written_once_and_company_is_always_eight() -> None:
    found: list[Run] = []
    for mine, spare in batches(RUNS, seed=1):
        found += mine
        assert len(mine) + len(spare) == (8 if mine[0].concurrent else 1)
    assert sorted(run.key for run in found) == sorted(run.key for run in RUNS)


def test_equal_texts_pass() -> None:
    result = verdict(compare(RUNS, outcomes()), 1.0, whole=True)
    assert result["cases"] == result["identical"] == 180
    assert result["undrafted"] == 0


@pytest.mark.parametrize(
    "change", [{"token_ids": (1, 3)}, {"text": "ac"}, {"reason": "stop"}, {"token_ids": (1,)}]
)
def test_one_changed_text_is_found(change: dict[str, object]) -> None:
    done = outcomes()
    key = next(run.key for run in RUNS if run.plan is not None)
    done[key] = replace(done[key], **change)  # type: ignore[arg-type]
    assert verdict(compare(RUNS, done), 1.0, whole=True)["identical"] == 179


def test_a_draft_that_never_answers_is_found() -> None:
    done = {key: replace(found, drafted=0) for key, found in outcomes().items()}
    assert verdict(compare(RUNS, done), 1.0, whole=True)["undrafted"] == 180


def test_outcomes_are_read_back_but_for_a_line_cut_short(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.jsonl"
    assert open_outcomes(out, "here") == {}
    lines = [json.dumps(asdict(outcome(run))) for run in RUNS[:3]]
    with out.open("a") as file:
        file.write("\n".join(lines)[:-5])
    done = open_outcomes(out, "here")
    assert done == {run.key: outcome(run) for run in RUNS[:2]}
    with out.open("a") as file:
        file.write(lines[2] + "\n")
    assert len(open_outcomes(out, "here")) == 3


def test_outcomes_of_another_code_or_host_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    open_outcomes(out, "here")
    with pytest.raises(RunError, match="other settings"):
        open_outcomes(out, "there")
