"""The evaluation of a draft for people and programs: Markdown, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from s2d_ray.job_folder import write_atomically
from s2d_ray.train.evaluation import Scope, Worth


def report(
    worths: Sequence[Worth], scope: Scope, draft: Path, card: Mapping[str, str], out: Path
) -> tuple[str, str]:
    """Write evaluation.md, evaluation.json and the pictures into `out`. -> table, JSON line"""
    out.mkdir(parents=True, exist_ok=True)
    table = "\n".join(_table(worths, scope))
    tree: dict[str, Any] = {
        "draft": str(draft),
        "texts": scope.texts,
        "draws": scope.draws,
        "depth": scope.depth,
        "targets": {
            worth.target: {
                "tokens": worth.num_tokens,
                "step_ms": round(worth.costs.target_ms, 3),
                "exits": worth.figures(),
            }
            for worth in worths
        },
        "card": dict(card),
    }
    line = json.dumps(tree)
    shown = "\n".join(f"- {name}: {value}" for name, value in card.items())
    write_atomically(out / "evaluation.md", f"{shown}\n\n{table}\n")
    write_atomically(out / "evaluation.json", line + "\n")
    for worth in worths:
        _draw_reliability(worth, out / f"reliability-{worth.target}.png")
        _draw_acceptance(worth, out / f"acceptance-{worth.target}.png")
    return table, line


def _table(worths: Sequence[Worth], scope: Scope) -> Iterator[str]:
    yield (
        f"Chains of {scope.depth}; lengths count the target's own token. "
        "Of the optimum: P(accept) / (1 − TV)."
    )
    yield ""
    yield (
        "| target | exit | T | P(accept) | of the optimum | accepted length | calibration error "
        "| step, ms | of a target's step |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for worth in worths:
        for layers, figures in worth.figures().items():
            cost = figures["cost"]
            for temperature, accepted in figures["acceptance"].items():
                yield (
                    f"| {worth.target} | {layers} | {temperature} | {accepted:.3f} "
                    f"| {figures['coupled_over_optimal'][temperature]:.3f} "
                    f"| {figures['expected_accepted_length'][temperature]:.2f} "
                    f"| {figures['calibration_error'][temperature]:.3f} "
                    f"| {cost['step_ms']:.1f} | {cost['of_target_step']:.2f} |"
                )


def _draw_reliability(worth: Worth, path: Path) -> None:
    """Confidence against acceptance, one panel per exit, one line per temperature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(worth.by_exit), 4), layout="constrained")
    panels = figure.subplots(1, len(worth.by_exit), squeeze=False)[0]
    for panel, (layers, by_temperature) in zip(panels, worth.by_exit.items(), strict=True):
        panel.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
        for temperature, one in by_temperature.items():
            panel.plot(
                [bin_.confidence for bin_ in one.bins],
                [bin_.accepted for bin_ in one.bins],
                marker="o",
                label=f"T = {temperature:g}",
            )
        panel.set(title=f"{worth.target}, exit {layers}", xlabel="confidence", ylabel="accepted")
        panel.legend()
    figure.savefig(path, metadata={"Software": None})


def _draw_acceptance(worth: Worth, path: Path) -> None:
    """P(accept) by the coupling beside the optimum, over exits, one line per temperature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    panel = figure.subplots()
    exits = list(worth.by_exit)
    for number, temperature in enumerate(next(iter(worth.by_exit.values()))):
        own = [worth.by_exit[layers][temperature] for layers in exits]
        colour = f"C{number}"
        label = f"T = {temperature:g}"
        panel.plot(exits, [one.acceptance for one in own], "o-", color=colour, label=label)
        panel.plot(exits, [one.optimum for one in own], "x:", color=colour)
    panel.set(
        title=f"{worth.target}: accepted (dotted: optimum)",
        xlabel="layers of the exit",
        ylabel="P(accept)",
        xticks=exits,
        ylim=(0, 1),
    )
    panel.legend()
    figure.savefig(path, metadata={"Software": None})
