"""`s2d verdict`: a draft earns its place by declared criteria, and a run of tiny models says so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from s2d_ray.bench import spec, spec_report
from s2d_ray.cli import app
from s2d_ray.config import AppConfig
from s2d_ray.core.threads import OneThread
from s2d_ray.errors import ConfigError, DataError, S2DError
from s2d_ray.report.page import render
from s2d_ray.report.sources import read_source
from s2d_ray.tuning.gather import Scale
from s2d_ray.tuning.prompts import built_in
from s2d_ray.tuning.search import Grid
from s2d_ray.verdict import steps
from s2d_ray.verdict.criteria import Verdict, judge, section
from s2d_ray.verdict.steps import Settings, Size
from tests.corpora import random_corpus
from tests.results import PLANS, other_text, questions
from tests.tiny import tiny_checkpoint, whole_draft
from tests.unit.test_spec_bench import fake

SIZE = Size(
    num_prompts=12,
    corpus_tokens=4,
    texts=2,
    draws=1,
    scale=Scale(max_new_tokens=6, temperatures=(0.0,), limit=3, repeats=1),
    grid=Grid(lengths=(1,), stops=(0.0,), chances=(0.5,)),
    plans=("cascade",),
    per_group=3,
    max_new_tokens=4,
    settles=True,
)


def verdict_on(worth: float, errors: Mapping[str, Sequence[float]] | None = None) -> Verdict:
    """Of 48 questions with 5 % of noise, under which `cascade` is worth so much."""
    held = questions(48, 1, plans={**PLANS, "cascade": worth})
    return judge("small", held, {"chat": (0.05,)} if errors is None else errors)


def test_a_quick_and_exact_draft_earns_its_place() -> None:
    found = verdict_on(1.3)
    assert found.earns
    assert found.sentence.startswith("earns its place: texts identical; 1.29 × plain (1.2")
    assert [each.holds for each in found.criteria] == [True] * 4


def test_a_peer_may_write_other_texts_but_no_plan_of_ours_may() -> None:
    held = questions(48, 1)
    theirs = [other_text(held[0], "assisted"), *held[1:]]
    assert judge("small", theirs, {}).earns
    ours = [other_text(held[0], "exit-2"), *held[1:]]
    found = judge("small", ours, {})
    assert not found.earns
    assert "other texts under exit-2" in found.sentence


@pytest.mark.parametrize("worth", [0.8, 1.0])
def test_a_draft_that_is_not_quicker_beyond_noise_does_not(worth: float) -> None:
    found = verdict_on(worth)
    assert not found.earns
    assert found.sentence.startswith("does not earn its place: ")
    assert ("slower in" in found.sentence) == (worth < 1)


def test_one_slow_group_is_enough() -> None:
    """All groups but one at 1.4, that one at .8: quicker all in all."""
    quick = questions(48, 1, plans={**PLANS, "cascade": 1.4})
    slow = questions(48, 2, plans={**PLANS, "cascade": 0.8})
    held = [s if s.group == "rag" else q for q, s in zip(quick, slow, strict=True)]
    found = judge("small", held, {})
    assert {each.name: each.holds for each in found.criteria}["speed"]
    assert not found.earns
    assert found.sentence.startswith("does not earn its place: slower in rag 0.")


def test_untrue_confidences_are_enough_and_unknown_ones_are_not() -> None:
    assert not verdict_on(1.3, {"chat": (0.3, 0.1), "code": (0.2,)}).earns
    unknown = verdict_on(1.3, {"chat": ()})
    assert unknown.earns
    assert unknown.criteria[-1].holds is None


def test_too_few_questions_tell_nothing() -> None:
    found = judge("small", questions(5, 1), {})
    assert not found.earns
    assert "too few to tell" in found.sentence


def test_a_quick_run_fails_only_for_other_texts() -> None:
    """A whole one for any no."""
    slow = verdict_on(0.8)
    held = questions(48, 1)
    wrong = judge("small", [other_text(held[0], "cascade"), *held[1:]], {})
    good = verdict_on(1.3)
    for given, whole, quick in (([good], 0, 0), ([good, slow], 1, 0), ([good, wrong], 1, 1)):
        assert steps.status_of(given, steps.WHOLE) == whole
        assert steps.status_of(given, steps.QUICK) == quick


def test_the_verdict_is_the_first_thing_on_the_page() -> None:
    page = render([], title="Verdict", first=[section([verdict_on(1.3), verdict_on(0.8)])])
    assert page.index("small: earns its place") < page.index("small: does not earn its place")
    assert page.count("cannot be told") == 0
    assert page.count("<td>fails</td>") == 2  # speed and groups of the slower one


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AppConfig:
    folder = tmp_path_factory.mktemp("verdict")
    model = tiny_checkpoint(folder / "target")
    whole_draft(folder / "draft", model, (2, 4))
    return AppConfig.model_validate(
        {
            "targets": {"tiny": {"model": str(model), "num_threads": 1}},
            "draft": {"checkpoint": str(folder / "draft"), "num_threads": 1},
            "plan": {"exit_thresholds": [0.5], "max_proposal": 2},
        }
    )


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(spec_report, "_draw", lambda *_: None)
    with OneThread():
        yield


def test_a_run_goes_on_after_a_kill_and_says_why_a_tiny_draft_fails(
    config: AppConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed ahead of the benchmark; then only that is done, and a third run does nothing."""
    monkeypatch.setattr(steps, "built_in", lambda half: built_in(half)[::3])  # short ones
    settings = Settings(config, tmp_path / "out", lambda work: 0.001, size=SIZE)
    with monkeypatch.context() as patched:
        patched.setattr(spec, "run", _killed)
        with pytest.raises(KeyboardInterrupt):
            steps.run(settings)
    monkeypatch.setattr(steps, "evaluate", None)
    monkeypatch.setattr(steps.calibrate, "run", None)
    assert steps.run(settings) == 1
    output = capsys.readouterr()
    assert "4 of 4" in output.err
    line = json.loads(output.out.splitlines()[-1])
    (found,) = line["verdicts"].values()
    assert (found["target"], found["earns"]) == ("tiny", False)
    told = {each["name"]: each["holds"] for each in found["criteria"]}
    assert told["texts"] is True
    assert output.out.startswith("tiny: does not earn its place: ")
    page = (settings.out / "verdict.html").read_text()
    assert "tiny: does not earn its place" in page
    assert 'id="acceptance"' in page
    assert {path.name for path in settings.out.iterdir()} == {
        *("run.json", "prompts.jsonl", "questions.jsonl", "corpus-tiny", "evaluation"),
        *("calibration", "bench", "verdict.html", "verdict.json"),
    }
    for name in ("evaluation", "calibration", "bench"):
        assert read_source(settings.out / name).commit != "unknown"
    monkeypatch.setattr(spec, "run", None)
    assert steps.run(settings) == 1
    assert (settings.out / "verdict.html").read_text() == page
    with pytest.raises(DataError, match="was begun with seed 1, not 2"):
        steps.run(replace(settings, seed=2))


def _killed(settings: Any) -> int:
    raise KeyboardInterrupt


def test_what_cannot_be_judged_is_refused_before_it_begins(
    config: AppConfig, tmp_path: Path
) -> None:
    settings = Settings(config, tmp_path, lambda work: 0.001, targets=("huge",))
    with pytest.raises(ConfigError, match="--target: huge is none of the config's: tiny"):
        steps.run(settings)
    corpus = random_corpus(tmp_path / "corpus", Path(config.targets["tiny"].model))
    big = config.model_copy(update={"targets": {"big": config.targets["tiny"]}})
    with pytest.raises(ConfigError, match="corpus was written by tiny; judged are big"):
        steps.run(replace(settings, config=big, targets=(), corpora=(corpus,)))
    without = config.model_copy(update={"draft": None})
    with pytest.raises(ConfigError, match="no draft; name one with --draft"):
        steps.run(replace(settings, config=without, targets=()))


def test_the_command_hands_on_its_words(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--draft` takes the place of the config's draft and keeps its settings."""
    asked: list[Settings] = []
    monkeypatch.setattr(steps, "run", lambda settings: asked.append(settings) or 1)
    fake(monkeypatch, "s2d_ray.serve.lone_draft", own_environment=contextlib.nullcontext)
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    words = f"verdict {path} --quick --out {tmp_path / 'o'} --draft {tmp_path} --target tiny"
    result = CliRunner().invoke(app, [*words.split(), "--corpus", "c", "--questions", "q"])
    assert result.exit_code == 1, result.output
    (settings,) = asked
    draft = settings.config.draft
    assert draft is not None
    assert (draft.checkpoint, draft.num_threads) == (str(tmp_path), 1)
    assert settings.size is steps.QUICK
    assert (settings.targets, settings.corpora) == (("tiny",), (Path("c"),))
    assert (settings.questions, settings.hop(tmp_path)) == (Path("q"), 0.001)
    wrong = CliRunner().invoke(app, ["verdict", str(path), "--draft", str(tmp_path / "none")])
    assert isinstance(wrong.exception, S2DError)
    assert "--draft: " in wrong.exception.message
