"""The figures in the README and in docs/results are those of the recorded results, as printed."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

from s2d_ray.report import sentences, shapes
from s2d_ray.report.sources import read_source

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
DRAFT = ROOT / "s2d_ray" / "drafts" / "smollm2-135m"
README = " ".join((ROOT / "README.md").read_text().split())


def draft() -> shapes.Training:
    found = read_source(RESULTS / "draft-smollm2-135m-2026-11-28.json").result
    assert isinstance(found, shapes.Training)
    return found


def spec() -> shapes.SpecTarget:
    found = read_source(RESULTS / "spec-smollm2-135m-2026-11-28.json").result
    assert isinstance(found, shapes.Spec)
    return found.targets["smollm2-135m"]


def qwen() -> shapes.Spec:
    found = read_source(RESULTS / "spec-qwen-2026-11-28.json").result
    assert isinstance(found, shapes.Spec)
    return found


def figures() -> dict[str, str]:
    """Each sentence of the README with a figure in it, and the figure as it should be printed."""
    agreed, seconds = draft().of_exits("agreed"), draft().seconds
    questions = spec()
    pair = [target.plans["planned"].speedup.overall for target in qwen().targets.values()]
    return {
        r"draft, (\d+) MB in the repository": f"{(draft().size_bytes or 0) / 1e6:.0f}",
        r"(\d+) minutes of writing text": f"{seconds['writing'] / 60:.0f}",
        r"(\d+) minutes of training": f"{seconds['training'] / 60:.0f}",
        r"(\d+) % \(behind two\)": f"{agreed[2]:.0%}".rstrip("%"),
        r"(\d+) % \(behind four\)": f"{agreed[4]:.0%}".rstrip("%"),
        r"made (\d+) questions of Spec-Bench": f"{sum(questions.questions.values())}",
        r"questions of Spec-Bench ([\d.]+) times as": (
            f"{questions.plans['cascade'].speedup.overall:.2f}"
        ),
        r"ran ([\d.]+) times as quick in float32": f"{pair[0]:.2f}",
        r"and ([\d.]+) times in int8 under plans": f"{pair[1]:.2f}",
    }


@pytest.mark.parametrize("sentence", figures())
def test_a_figure_of_the_readme_is_the_recorded_one(sentence: str) -> None:
    assert re.findall(sentence, README) == [figures()[sentence]]


def test_the_report_says_the_same_of_the_same_files() -> None:
    """`s2d report` and the README round the same numbers."""
    sources = [
        read_source(RESULTS / f"{kind}-smollm2-135m-2026-11-28.json") for kind in ("draft", "spec")
    ]
    trained, speed = sentences.by_target(sources)["smollm2-135m"]
    agreed = {int(n): share for share, n in re.findall(r"(\d+)% \(exit (\d+)\)", trained)}
    assert f"{agreed[2]} % (behind two)" in README
    assert f"{agreed[4]} % (behind four)" in README
    found = re.search(r"makes (\d+) questions ([\d.]+) times as quick as plain", speed)
    assert found
    assert f"made {found[1]} questions of Spec-Bench {found[2]} times as quick as plain" in README


def test_the_recorded_draft_is_the_shipped_one() -> None:
    """Recipe and evaluation, key by key, and the size of its file."""
    shipped = json.loads((DRAFT / "training.json").read_text())
    held = json.loads((RESULTS / "draft-smollm2-135m-2026-11-28.json").read_text())
    assert {name: held[name] for name in shipped} == shipped
    assert (DRAFT / "changes.safetensors").stat().st_size == held["size_bytes"]


def test_the_page_on_training_has_the_same_figures() -> None:
    page = (RESULTS / "training.md").read_text()
    agreed, plans = draft().of_exits("agreed"), spec().plans
    (row,) = re.findall(r"shipped \| \*\*([\d.]+) %\*\* \| \*\*([\d.]+) %\*\*", page)
    assert row == tuple(f"{100 * share:.1f}" for share in agreed.values())
    (told,) = re.findall(
        r"cascade with tier 0 ([\d.]+) \(mathematics ([\d.]+), translation ([\d.]+)\), "
        r"sorted alone ([\d.]+), tier 0 alone ([\d.]+); all texts identical",
        " ".join(page.split()),
    )
    groups = plans["cascade"].speedup.groups
    overall = [plans[plan].speedup.overall for plan in ("cascade", "sorted", "tier-0")]
    numbers = [overall[0], groups["math_reasoning"], groups["translation"], *overall[1:]]
    assert told == tuple(f"{number:.2f}" for number in numbers)
    assert all(one.identical for one in plans.values())


@pytest.mark.parametrize(("target", "heading"), [("", "float32"), ("-int8", "int8")])
def test_the_page_on_plans_has_the_figures_of_the_recorded_sweeps(
    target: str, heading: str
) -> None:
    """Row by row, by class, and how far predictions are off."""
    page = (RESULTS / "plans.md").read_text()
    (part,) = re.findall(rf"\n## {heading}\n(.*?)\n## ", page, re.DOTALL)
    source = read_source(RESULTS / f"sweep-smollm2-135m{target}-2026-11-28.json").result
    assert isinstance(source, shapes.Sweep)
    found = source.targets[f"smollm2-135m{target}"]
    for plan, one in found.by_plan.items():
        low, high = one.spread
        row = f"| {plan} | {one.predicted:.2f} | {one.measured:.2f} | {low:.2f}–{high:.2f} "
        assert f"{row}| {one.mean_accepted_length:.2f} | same |" in part
        assert one.measured <= found.by_plan["planned"].measured
    classes = ", ".join(f"{task} {speed:.2f}" for task, speed in found.by_group.items())
    assert f"`planned` by class: {classes}" in part
    off = [100 * abs(one.predicted / one.measured - 1) for one in found.by_plan.values()]
    (told,) = re.findall(r"Prediction is ([\d.]+) % off in the median.*, ([\d.]+) % at most", part)
    assert told == (f"{statistics.median(off):.1f}", f"{max(off):.1f}")
    crowds = [
        f"{speed:.2f} ({found.concurrency_spread[size][0]:.2f}–"
        f"{found.concurrency_spread[size][1]:.2f})"
        for size, speed in found.by_concurrency.items()
    ]
    assert f"| {heading} | {' | '.join(crowds)} |" in page


def test_the_page_on_two_targets_has_the_figures_of_its_run() -> None:
    """Both tables, plan by plan: groups, overall and accepted length."""
    page = (RESULTS / "qwen.md").read_text()
    tables = page.split("| float32 |")[1].split("| int8 |")[:2]
    shown = {
        "planned": "planned",
        "cascade": r"cascade \(both tiers\)",
        "exit-24": "deepest exit alone",
        "tier-0": "tier 0 alone",
        "assisted": "`transformers`, assisted",
    }
    for table, target in zip(tables, qwen().targets.values(), strict=True):
        for plan, name in shown.items():
            held = target.plans[plan]
            speeds = [*held.speedup.groups.values(), held.speedup.overall]
            (row,) = re.findall(rf"^\| {name} \| (.*) \|$", table, re.MULTILINE)
            cells = [cell.strip("* ") for cell in row.split("|")]
            assert cells[:7] == [f"{speed:.2f}" for speed in speeds], (plan, cells)
            assert cells[-1] == f"{held.mean_accepted_length:.2f}"
