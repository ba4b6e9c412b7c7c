"""`s2d report` and `s2d bench compare`: results are known by content, and told as they are."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from s2d_ray.bench import spec_figures, spec_report
from s2d_ray.bench.cli import bench_app
from s2d_ray.cli import app
from s2d_ray.errors import DataError, S2DError
from s2d_ray.report import history, shapes
from s2d_ray.report.compare import compare
from s2d_ray.report.figures import figures_of
from s2d_ray.report.page import render
from s2d_ray.report.sources import COMMANDS, parse, read_source
from tests.results import CARD, PLANS, Change, Tree, engine_line, questions, spec_folder, write

ROOT = Path(__file__).parents[2]
RECORDED = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.fixture(autouse=True)
def no_pictures_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that `bench spec` draws beside its answers take most of the time and are not read."""
    monkeypatch.setattr(spec_report, "_draw", lambda *_: None)


EVALUATION = {
    "draft": "run/draft",
    "texts": 2,
    "draws": 1,
    "depth": 4,
    "targets": {
        "small": {
            "tokens": 900,
            "step_ms": 20.0,
            "exits": {
                layers: {
                    "agreement": share,
                    **dict.fromkeys(
                        ("expected_accepted_length", "coupled_over_optimal", "calibration_error"),
                        {"0": 0.1},
                    ),
                    "acceptance": {"0": share},
                    "optimum": {"0": share},
                    "reliability": {"0": [[200, 0.2, 0.1], [100, 0.9, 0.95]]},
                    "cost": {"step_ms": 2.0, "of_target_step": 0.1},
                }
                for layers, share in (("2", 0.5), ("4", 0.6))
            },
        }
    },
    "card": CARD,
}


LOAD = {
    "card": {"model": "small", "commit": "abc", "minutes": 10.0, "seed": 1},
    "runs": [
        {
            "offered_per_s": 0.5,
            "requests": 300,
            "answered": 299,
            "goodput_tokens_per_s": 24.5,
            "ttft_ms": {"p50": 100.0, "p95": 420.0},
            "tpot_ms": {"p50": 40.0, "p95": 61.0},
        }
    ],
}
ROUTER = {
    "whole": {"1": {"ratio": [0.9, 0.88, 0.93]}},
    "streamed": {"1": {"ratio": [0.8, 0.79, 0.84]}},
    "delta": {"bytes": 90, "us": 8.0},
    "card": {"cpu": "Some CPU", "commit": "abc", "rounds": 5},
}


def test_every_kind_of_result_is_recorded_and_read() -> None:
    assert {read_source(path).kind for path in RECORDED} == {*COMMANDS.values()}


def test_the_service_has_its_answers_and_waits_on_the_page() -> None:
    page = render([parse(Path("l.json"), LOAD), parse(Path("r.json"), ROUTER)])
    for told in ("299/300", "<td>420</td>", "<td>10.0</td>", "by clients: 1: 0.90."):
        assert told in page
    (line,) = [e for e in compare(*[parse(Path("r.json"), ROUTER)] * 2).lines if "whole" in e.name]
    assert (line.verdict, line.before) == ("as before", 0.9)


def test_a_draft_of_the_package_is_a_result_of_its_training() -> None:
    found = read_source(ROOT / "s2d_ray" / "drafts" / "smollm2-135m").result
    assert isinstance(found, shapes.Training)
    assert set(found.of_exits("agreed")) == {2, 4}


def test_a_folder_a_file_and_a_log_are_the_same_result(tmp_path: Path) -> None:
    folder = spec_folder(tmp_path / "run", questions(12, 1))
    whole, file = read_source(folder), read_source(folder / "report.json")
    log = tmp_path / "log.txt"
    log.write_text(f"cpu  some\nDIFFERS x\n{(folder / 'report.json').read_text()}\n")
    assert whole.result == file.result == read_source(log).result
    assert len(whole.answers) == 12
    assert (whole.name, file.name) == ("run", "run")
    assert whole.digest != file.digest == read_source(log).digest


def test_a_run_that_is_not_at_its_end_is_read_as_far_as_it_came(tmp_path: Path) -> None:
    """With half a line behind it, and nothing in the folder is changed."""
    held = questions(8, 1)
    folder = spec_folder(tmp_path / "run", held, finished=False)
    path = folder / "answers.jsonl"
    path.write_text(f'{path.read_text()}{{"target": ')
    before = path.read_bytes()
    found = read_source(folder)
    assert isinstance(found.result, shapes.Spec)
    assert found.result.targets["small"].plans["cascade"].speedup.overall == pytest.approx(
        spec_figures.speedup(held, "cascade"), abs=1e-4
    )
    assert found.result.card["scale"].startswith("not at its end: 8 questions answered")
    assert path.read_bytes() == before
    path.write_text('{"target": 1}\n')
    with pytest.raises(DataError, match=r"answers.jsonl:1: is damaged"):
        read_source(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither the file nor its last line is JSON"),
        ("hello\n", "neither the file nor its last line is JSON"),
        ("[]", "is no result of `bench spec`, `bench engine`, "),
        ('{"targets": {}}', "is no result of"),
        ('{"targets": {"a": {"plans": {}, "plain": {}}}}', "targets.a.plain.tokens_per_second"),
        ('{"forward_rows": {}}', "`bench engine`: draft_rows_8_vs_1: Field required"),
    ],
)
def test_what_is_no_result_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_source(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert message in caught.value.message


def test_a_folder_without_a_result_says_what_it_should_have(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has none of report.json, evaluation.json, training.json"):
        read_source(tmp_path)
    with pytest.raises(DataError, match="there is no such file or folder"):
        read_source(tmp_path / "none")


class Checker(HTMLParser):
    """Collects what a page would fetch or run, its ids and links."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.pictures: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = {name: value or "" for name, value in attrs}
        if tag in ("script", "link", "img", "iframe") or held.get("src"):
            self.outside.append(tag)
        if tag in ("a", "use"):
            self.links.append(held.get("href", held.get("xlink:href", "")))
        if tag == "svg":
            self.pictures.append(held["aria-label"])
        if "id" in held:
            self.ids.append(held["id"])


def test_the_page_of_all_recorded_results_stands_alone() -> None:
    """No script, nothing from elsewhere; every link and clip leads to something in the page."""
    sources = [read_source(path) for path in RECORDED] + [parse(Path("e.json"), EVALUATION)]
    page = render(sources)
    found = Checker(page)
    assert found.outside == []
    assert not re.search(r"@import|url\((?!#)", page)
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(found.ids)
    assert "currentColor" in page
    assert "#010203" not in page
    assert len(found.pictures) == len(set(found.pictures)) > 12
    assert "smollm2-135m" in page.split("<h2>Speed by plan and group")[0]
    for source in sources:
        assert source.digest in page


def test_the_same_results_give_the_same_page_in_any_order() -> None:
    engine = parse(Path("a.json"), engine_line())
    other = parse(Path("e.json"), EVALUATION)
    entries = [history.entry_of(engine), history.entry_of(replace(engine, digest="another"))]
    page = render([engine, other], entries)
    assert render([other, engine], entries) == page


def test_names_from_files_do_no_harm() -> None:
    """A target may be called anything; the page shows it, in text and in pictures."""
    text = json.dumps(EVALUATION).replace('"small"', '"<b>&small"')
    page = render([parse(Path("e.json"), json.loads(text))])
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;small" in page


def test_history_keeps_each_result_once_and_is_plotted_over_commits(tmp_path: Path) -> None:
    path = tmp_path / "past" / "history.jsonl"
    first = read_source(spec_folder(tmp_path / "a", questions(12, 1)))
    other = read_source(
        spec_folder(tmp_path / "b", questions(12, 2), CARD | {"commit": "fedcba98"})
    )
    assert len(history.append(path, [first, first])) == 1
    entries = history.append(path, [other, first])
    assert [each.commit for each in entries] == ["0123456789ab", "fedcba98"]
    assert history.read(path) == entries
    assert len(path.read_text().splitlines()) == 2
    page = render([first], entries)
    assert 'id="history"' in page
    assert "fedcba9" in page
    assert 'id="history"' not in render([first], entries[:1])
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"history.jsonl:1: is no line of a history"):
        history.read(path)


def verdicts(folder: Path, seed: int, change: float = 1.0, count: int = 30) -> dict[str, str]:
    """Of two runs with noise of 10 % a ratio, `cascade` being `change` times as quick later."""
    plans = {**PLANS, "cascade": PLANS["cascade"] * change}
    before = spec_folder(folder / f"{seed}a", questions(count, seed, noise=0.07), finished=True)
    after = spec_folder(folder / f"{seed}b", questions(count, seed + 1, noise=0.07, plans=plans))
    found = compare(read_source(before), read_source(after))
    return {line.name: line.verdict for line in found.lines}


NAME = "small / cascade / over plain"


def test_a_slower_plan_is_told_among_all_figures_and_nothing_else_is(tmp_path: Path) -> None:
    """Ten drawn pairs of runs of 30 questions, cascade 15 % slower in the later one."""
    told = [verdicts(tmp_path, 10 * seed, 0.85) for seed in range(10)]
    assert sum(each[NAME] == "worse" for each in told) >= 9
    others = [verdict for each in told for name, verdict in each.items() if name != NAME]
    assert sum(verdict in ("worse", "better") for verdict in others) <= 1
    assert set(told[0]) == {
        "small / plain / tokens per second",
        *(f"small / {plan} / {what}" for plan in list(PLANS)[1:] for what in BOTH),
    }


BOTH = ("over plain", "mean accepted length")


def test_with_few_questions_nothing_is_told_and_the_output_says_so(tmp_path: Path) -> None:
    few = spec_folder(tmp_path / "few", questions(4, 1))
    many = spec_folder(tmp_path / "many", questions(8, 2))
    found = compare(read_source(few), read_source(many))
    assert {line.verdict for line in found.lines} == {"fewer than 6 questions"}
    (note,) = found.notes
    assert note.startswith("With 4 questions in common")
    file = compare(read_source(few / "report.json"), read_source(many / "report.json"))
    assert {line.verdict for line in file.lines} == {"no spread"}
    assert "name the folders" in file.notes[0]


def test_only_questions_and_plans_of_both_are_compared(tmp_path: Path) -> None:
    held = questions(16, 1)
    part = [
        replace(each, answers={p: a for p, a in each.answers.items() if p != "exit-2"})
        for each in held[4:]
    ]
    whole, some = spec_folder(tmp_path / "w", held), spec_folder(tmp_path / "s", part)
    found = compare(read_source(whole), read_source(some))
    assert all(line.before == line.after for line in found.lines)
    assert not any("exit-2" in line.name for line in found.lines)
    with pytest.raises(DataError, match="has no question that the other result has"):
        compare(read_source(whole), read_source(spec_folder(tmp_path / "o", other_questions())))


def other_questions() -> list[Any]:
    return [replace(each, question_id=each.question_id + 100) for each in questions(8, 1)]


def test_other_hardware_is_said_and_speeds_are_not_judged_on_it(tmp_path: Path) -> None:
    here = read_source(spec_folder(tmp_path / "a", questions(20, 1)))
    there = read_source(spec_folder(tmp_path / "b", questions(20, 2), CARD | {"cpu": "Another"}))
    found = compare(here, there)
    assert found.cards == {"cpu": ("Some CPU, 2 threads", "Another")}
    assert found.notes[0].startswith("Other hardware")
    speeds = [line for line in found.lines if line.name.endswith("tokens per second")]
    assert [line.verdict for line in speeds] == ["other hardware"]


def test_repeated_runs_of_the_engines_are_compared_by_their_ends(tmp_path: Path) -> None:
    """Four other ratios and their noise beside one that is planted; costs have no spread."""
    before = read_source(write(tmp_path / "a.json", engine_line(noise=0.002)))
    after = read_source(write(tmp_path / "b.json", engine_line(0.8, seed=2, noise=0.002)))
    told = {line.name: line.verdict for line in compare(before, after).lines}
    assert told["plain_vs_generate"] == "worse"
    assert told["forward_rows / 1"] == "no spread"
    assert {each for name, each in told.items() if name.startswith("speculation")} == {"as before"}


def test_results_of_two_kinds_are_refused(tmp_path: Path) -> None:
    engine = read_source(write(tmp_path / "e.json", engine_line()))
    other = parse(Path("v.json"), EVALUATION)
    with pytest.raises(DataError, match=r"e.json is a result of `bench engine` and v.json one of"):
        compare(engine, other)


def changed(tree: Tree, change: Change) -> Tree:
    copy: Tree = json.loads(json.dumps(tree))
    change(copy)
    return copy


def test_agreement_is_judged_by_the_guesses_behind_it() -> None:
    """300 guesses of .5: .6 is 2.4 standard errors of a difference away, .52 half of one."""

    def verdict(share: float) -> tuple[float | None, str]:
        exits = lambda tree: tree["targets"]["small"]["exits"]["2"]  # noqa: E731
        after = changed(EVALUATION, lambda tree: exits(tree).update(agreement=share))
        found = compare(parse(Path("a.json"), EVALUATION), parse(Path("b.json"), after))
        (line,) = [e for e in found.lines if e.name == "small / exit 2 / agreement"]
        return line.chance, line.verdict

    chance, told = verdict(0.6)
    error = math.hypot(math.sqrt(1 / 300), math.sqrt(0.4 / 0.6 / 300))
    expected = math.erfc(math.log(1.2) / error / math.sqrt(2))
    assert chance == pytest.approx(expected, abs=1e-4)
    assert told == "better"
    assert verdict(0.52)[1] == "as before"


def test_every_figure_has_a_name_of_its_own() -> None:
    for path in RECORDED:
        names = [each.name for each in figures_of(read_source(path))]
        assert len(names) == len(set(names)) > 0


@pytest.mark.parametrize(
    ("change", "fails", "status"), [(0.7, True, 1), (0.7, False, 0), (1, True, 0)]
)
def test_a_slower_result_fails_the_command_only_where_that_is_asked(
    tmp_path: Path, change: float, fails: bool, status: int
) -> None:
    before = write(tmp_path / "a.json", engine_line(noise=0.001))
    after = write(tmp_path / "b.json", engine_line(change, seed=2, noise=0.001))
    words = ["compare", str(before), str(after), *["--fail-on-slower"][: int(fails)]]
    result = CliRunner().invoke(bench_app, words)
    assert result.exit_code == status
    tree = json.loads(result.stdout.splitlines()[-1])
    assert tree["worse"] == (["plain_vs_generate"] if change < 1 else [])
    assert "plain_vs_generate" in result.stdout
    only = CliRunner().invoke(bench_app, [*words, "--json"])
    assert json.loads(only.stdout) == tree


def test_the_command_writes_page_and_history(tmp_path: Path) -> None:
    sample = write(tmp_path / "e.json", EVALUATION)
    out, past = tmp_path / "there" / "page.html", tmp_path / "history.jsonl"
    words = ["report", str(sample), "--out", str(out), "--history", str(past)]
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    first = out.read_bytes()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert out.read_bytes() == first
    assert len(past.read_text().splitlines()) == 1
    wrong = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert isinstance(wrong.exception, S2DError)
