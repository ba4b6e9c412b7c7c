"""The report of `s2d calibrate`: Markdown, JSON and pictures of how true confidences are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2d_ray.core.calibration import AcceptanceModel
from s2d_ray.core.cascade import Plan
from s2d_ray.core.goodput import PLAIN, Candidate, goodput
from s2d_ray.core.replay import Trace
from s2d_ray.plan_file import CandidateRow, PlanFile
from s2d_ray.tuning.published import TARGETS, modelled_costs
from s2d_ray.tuning.search import Replayed, ranked


@dataclass(frozen=True)
class Calibrated:
    """What was found for one target and class of task. held_out: see `search.held_out_gain`;
    interval: of the best plan's speed over plain decoding, see `search.interval`."""

    traces: Sequence[Trace]
    model: AcceptanceModel
    replayed: Sequence[Replayed]
    kept: Sequence[Candidate]
    held_out: float
    interval: tuple[float, float]


def shown(plan: Plan) -> str:
    """A plan in a few words."""
    looks_up = [f"tier 0 up to {plan.max_lookup}"] if plan.min_match else []
    if plan.max_proposal == 0:
        return ", ".join(looks_up) or "plain"
    words = [
        "exits " + "/".join(f"{each:.2f}" for each in plan.exit_thresholds)
        if plan.exit_thresholds
        else "one exit",
        f"length {plan.max_proposal}",
    ]
    if plan.stop_threshold:
        words.append(f"stop {plan.stop_threshold:g}")
    if plan.tree_width > 1:
        words.append(f"tree {plan.tree_width}×{plan.tree_depth}")
    return ", ".join([*words, *looks_up])


def report(
    found: Mapping[str, Mapping[str, Calibrated]],
    plans: PlanFile,
    card: Mapping[str, str],
    folder: Path,
) -> str:
    """Write Markdown, JSON and pictures into `folder`, print the tables. -> JSON line."""
    table = "\n".join(_lines(found, plans))
    head = "\n".join(f"- {name}: {value}" for name, value in card.items())
    text = f"# Calibration\n\n{head}\n\n{table}\n"
    (folder / "report.md").write_text(text, encoding="utf-8")
    for name, classes in found.items():
        for task, each in classes.items():
            _draw(each.model, f"{name}, {task}", folder / f"reliability-{name}-{task}.png")
    line = json.dumps({"targets": figures(found, plans), "card": dict(card)})
    (folder / "report.json").write_text(line + "\n", encoding="utf-8")
    print(f"\n{table}")
    return line


def figures(
    found: Mapping[str, Mapping[str, Calibrated]], plans: PlanFile
) -> dict[str, dict[str, Any]]:
    """The published keys, by target and class."""
    return {
        name: {
            task: {
                "best": shown(each.kept[0].plan),
                "predicted_over_plain": round(
                    plans.targets[name].classes[task].candidates[0].over_plain[1], 4
                ),
                "interval": [round(end, 4) for end in each.interval],
                "held_out_over_plain": round(each.held_out, 4),
                "texts": len(each.traces),
                "rounds": each.kept[0].rounds,
                "calibration_error": {
                    f"{m.drafted_by} T{m.temperature:g} depth{m.depth}": _rounded(m.error)
                    for m in each.model.maps
                },
                "modelled_gpu": modelled(each.replayed, each.traces[0].exit_layers),
            }
            for task, each in classes.items()
        }
        for name, classes in found.items()
    }


def modelled(
    replayed: Sequence[Replayed], exit_layers: Sequence[int]
) -> dict[str, dict[str, float | str]]:
    """The same replay under costs modelled for GPUs; S2D's own published speed-up beside it."""
    candidates = [each.candidate() for each in replayed]
    result: dict[str, dict[str, float | str]] = {}
    for target in TARGETS:
        costs = modelled_costs(target, exit_layers)
        best = ranked(candidates, costs, 1)[0]
        result[target.name] = {
            "modelled": round(goodput(best, costs, 1) / goodput(PLAIN, costs, 1), 4),
            "plan": shown(best.plan),
            "published_s2d": target.speedup,
        }
    return result


def _rounded(error: float | None) -> float | None:
    return None if error is None else round(error, 4)


def _lines(found: Mapping[str, Mapping[str, Calibrated]], plans: PlanFile) -> Iterator[str]:
    for name, classes in found.items():
        for task, each in classes.items():
            rows = plans.targets[name].classes[task].candidates
            yield f"\n## {name}, {task}\n"
            low, high = each.interval
            yield (
                f"{len(each.traces)} texts. Predicted speed over plain decoding, by texts that run "
                f"together; of the first plan {low:.2f}–{high:.2f} in 95 % of draws of texts. "
                f"The plan that one half of the texts chooses does {each.held_out:.2f} "
                "on the other half.\n"
            )
            yield from _plan_table(rows)
            yield "\nP(accepted): mean distance from what was accepted, on texts not learned from\n"
            yield from _map_table(each.model)
            yield (
                "\nModelled, not measured: this replay under the weights that GPUs would stream; "
                "S2D's published figures are of other models and texts\n"
            )
            yield "| target | modelled | best plan | S2D, published |"
            yield "|---|---|---|---|"
            for target, one in modelled(each.replayed, each.traces[0].exit_layers).items():
                yield f"| {target} | {one['modelled']} | {one['plan']} | {one['published_s2d']} |"


def _plan_table(rows: Sequence[CandidateRow]) -> Iterator[str]:
    sizes = list(rows[0].over_plain)
    yield "| plan | tokens a round | guesses a round | " + " | ".join(map(str, sizes)) + " |"
    yield "|---" * (3 + len(sizes)) + "|"
    for row in rows:
        candidate = row.candidate()
        over = " | ".join(f"{row.over_plain[size]:.2f}" for size in sizes)
        yield (
            f"| {shown(candidate.plan)} | {candidate.committed:.2f} | {candidate.proposed:.2f} "
            f"| {over} |"
        )


def _map_table(model: AcceptanceModel) -> Iterator[str]:
    yield "| guessed by | T | from depth | guesses | error | of the bare confidence |"
    yield "|---|---|---|---|---|---|"
    for each in model.maps:
        who = f"exit {each.drafted_by}" if each.drafted_by else "tier 0"
        count = sum(knot.count for knot in each.knots)
        error, raw = (f"{e:.3f}" if e is not None else "" for e in (each.error, each.raw))
        yield f"| {who} | {each.temperature:g} | {each.depth} | {count:g} | {error} | {raw} |"


def _draw(model: AcceptanceModel, title: str, path: Path) -> None:
    """Each map with its intervals beside the diagonal, on which bare confidences would be true."""
    from matplotlib.figure import Figure

    maps = [each for each in model.maps if each.depth == 0]
    figure = Figure(figsize=(1 + 3 * max(1, len(maps)), 3.4), layout="constrained")
    panels = figure.subplots(1, max(1, len(maps)), squeeze=False)[0]
    for panel, each in zip(panels, maps, strict=False):
        at = [knot.confidence for knot in each.knots] + [1.0]
        ends = [each.knots[-1]]
        for values in ("chance", "low", "high"):
            line = [getattr(knot, values) for knot in (*each.knots, *ends)]
            style = "-" if values == "chance" else ":"
            panel.step(at, line, where="post", linestyle=style, color="tab:blue")
        panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        who = f"exit {each.drafted_by}" if each.drafted_by else "tier 0"
        panel.set(title=f"{who}, T = {each.temperature:g}", xlabel="confidence", ylim=(-0.03, 1.03))
    panels[0].set_ylabel("accepted")
    figure.suptitle(title)
    figure.savefig(path, metadata={"Software": None})
