"""The report of `s2d sweep`: prediction against measurement, in Markdown, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2d_ray.bench import spec_figures
from s2d_ray.bench.figures import Spread, spread
from s2d_ray.bench.spec_figures import BASELINE, PLANNED, Answered
from s2d_ray.core.goodput import PLAIN
from s2d_ray.tuning.calibrate_report import shown
from s2d_ray.tuning.predict import Predictor, predicted_speedup
from s2d_ray.tuning.sweep_plans import Axes, PlansOf, grid_name, names


@dataclass(frozen=True)
class Crowd:
    """So many texts at once, in one run. auto, off: tokens per second planned and plain."""

    target: str
    size: int
    run: int
    auto: float
    off: float


@dataclass(frozen=True)
class Swept:
    """One target. prompt_tokens: by the prompt's number."""

    plans: PlansOf
    answered: Sequence[Answered]
    prompt_tokens: Mapping[int, int]
    crowds: Sequence[Crowd]
    predictor: Predictor

    def predicted(self, plan: str) -> float:
        """Speed over plain, by replay, of the prompts that were answered."""
        texts = [
            (
                each.group,
                self.prompt_tokens[each.question_id],
                each.answers[BASELINE].num_tokens,
            )
            for each in self.answered
        ]
        return predicted_speedup(self.predictor, self.plans[plan], PLAIN.plan, texts)

    def groups(self) -> dict[str, list[Answered]]:
        """The answered prompts by class of task."""
        found: dict[str, list[Answered]] = {}
        for each in self.answered:
            found.setdefault(each.group, []).append(each)
        return found


def report(
    found: Mapping[str, Swept], axes: Axes, card: Mapping[str, str], out: Path
) -> tuple[str, list[str]]:
    """Write report.md, report.json and the pictures, and print the tables.

    -> JSON line, and "target plan" of each plan that wrote other ids than plain decoding.
    """
    values = {name: figures(swept) for name, swept in found.items()}
    table = "\n".join(line for name, of in values.items() for line in _lines(name, of))
    head = "\n".join(f"- {name}: {value}" for name, value in card.items())
    (out / "report.md").write_text(f"# Sweep\n\n{head}\n\n{table}\n", encoding="utf-8")
    for name, of in values.items():
        _heat_maps(name, of, axes, out / f"heat-{name}.png")
        _prediction(name, of, out / f"prediction-{name}.png")
    first = next(iter(values.values()))
    line = json.dumps({**first, "targets": values, "card": dict(card)})
    (out / "report.json").write_text(line + "\n", encoding="utf-8")
    print(f"\n{table}\n")
    wrong = [
        f"{name} {plan}"
        for name, of in values.items()
        for plan, one in of["by_plan"].items()
        if not one["identical"]
    ]
    return line, wrong


def figures(swept: Swept) -> dict[str, Any]:
    """The published keys of one target; those of the first target are the line's own."""
    answered = swept.answered
    by_plan = {plan: _plan_figures(swept, plan) for plan in names(swept.plans)}
    best = max(by_plan, key=lambda plan: float(by_plan[plan]["predicted"]))
    groups = swept.groups()
    speedups = {task: spec_figures.speedup(of, PLANNED) for task, of in groups.items()}
    crowds = _by_concurrency(swept.crowds)
    return {
        "best": {
            "plan": best,
            "predicted": by_plan[best]["predicted"],
            "measured": by_plan[best]["measured"],
        },
        "by_plan": by_plan,
        "by_concurrency": {size: of.rounded for size, of in crowds.items()},
        "concurrency_spread": {size: of.ends for size, of in crowds.items()},
        "concurrency_runs": len({each.run for each in swept.crowds}),
        "by_group": {task: round(speedup, 4) for task, speedup in speedups.items()},
        "min_group_speedup": round(min(speedups.values()), 4),
        "plain_tokens_per_second": round(spec_figures.speed(answered, BASELINE), 3),
        "prompts": len(answered),
    }


def _plan_figures(swept: Swept, plan: str) -> dict[str, Any]:
    answered = swept.answered
    spread = spec_figures.spread_of(answered, plan)
    return {
        "plans": {task: shown(each) for task, each in swept.plans[plan].items()},
        "predicted": round(swept.predicted(plan), 4),
        "measured": round(spec_figures.speedup(answered, plan), 4),
        "spread": spread.ends,
        "mean_accepted_length": round(spec_figures.mean_accepted_length(answered, plan), 4),
        "identical": spec_figures.same(answered, plan) == len(answered),
    }


def _by_concurrency(crowds: Sequence[Crowd]) -> dict[str, Spread]:
    """Planned over plain, run by run."""
    sizes = sorted({each.size for each in crowds})
    return {
        str(size): spread(each.auto / each.off for each in crowds if each.size == size)
        for size in sizes
    }


def _lines(name: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## {name}\n"
    yield (
        f"Speed over plain decoding ({values['plain_tokens_per_second']:.2f} tokens/s), "
        f"{values['prompts']} prompts one by one; predicted by replay of other texts.\n"
    )
    yield "| plan | predicted | measured | lowest–highest | accepted length | ids |"
    yield "|---|---|---|---|---|---|"
    for plan, one in values["by_plan"].items():
        low, high = one["spread"]
        same = "same" if one["identical"] else "others"
        yield (
            f"| {plan} | {one['predicted']:.2f} | {one['measured']:.2f} | {low:.2f}–{high:.2f} "
            f"| {one['mean_accepted_length']:.2f} | {same} |"
        )
    yield f"\n`{PLANNED}` by class of task:\n"
    yield "| class | plan | over plain |"
    yield "|---|---|---|"
    for task, speedup in values["by_group"].items():
        yield f"| {task} | {values['by_plan'][PLANNED]['plans'][task]} | {speedup:.2f} |"
    if values["by_concurrency"]:
        yield "\nPlanned for so many texts over plain, all at once:\n"
        yield "| texts | over plain |"
        yield "|---|---|"
        for size, ratio in values["by_concurrency"].items():
            yield f"| {size} | {ratio:.2f} |"


def _heat_maps(name: str, values: Mapping[str, Any], axes: Axes, path: Path) -> None:
    """Speed over plain by threshold and length, predicted and measured, on one scale."""
    from matplotlib.figure import Figure

    tables = {
        kind: [
            [values["by_plan"][grid_name(threshold, length)][kind] for length in axes.lengths]
            for threshold in axes.thresholds
        ]
        for kind in ("predicted", "measured")
    }
    cells = [cell for table in tables.values() for row in table for cell in row]
    figure = Figure(figsize=(9, 1.5 + 0.6 * len(axes.thresholds)), layout="constrained")
    for panel, (kind, table) in zip(figure.subplots(1, 2), tables.items(), strict=True):
        panel.imshow(table, vmin=min(cells), vmax=max(cells), cmap="viridis", aspect="auto")
        panel.set(title=kind, xlabel="length", ylabel="exit threshold")
        panel.set_xticks(range(len(axes.lengths)), axes.lengths)
        panel.set_yticks(range(len(axes.thresholds)), axes.thresholds)
        for row, line in enumerate(table):
            for column, cell in enumerate(line):
                text = panel.text(column, row, f"{cell:.2f}", ha="center", va="center")
                text.set(color="white", bbox={"facecolor": "black", "alpha": 0.5, "pad": 1})
    figure.suptitle(f"{name}: speed over plain decoding")
    figure.savefig(path, metadata={"Software": None})


def _prediction(name: str, values: Mapping[str, Any], path: Path) -> None:
    """Each plan as a point; on the diagonal the prediction is right."""
    from matplotlib.figure import Figure

    plans = values["by_plan"]
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    panel = figure.subplots()
    ends = [one[kind] for one in plans.values() for kind in ("predicted", "measured")]
    panel.plot([min(ends), max(ends)], [min(ends), max(ends)], color="grey", linewidth=0.8)
    for plan, one in plans.items():
        panel.plot(one["predicted"], one["measured"], "o", color="tab:blue")
        panel.annotate(plan, (one["predicted"], one["measured"]), fontsize=7)
    panel.set(title=f"{name}: over plain decoding", xlabel="predicted", ylabel="measured")
    figure.savefig(path, metadata={"Software": None})
