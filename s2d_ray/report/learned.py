"""Sections of what exits guess and what was predicted of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from s2d_ray.report import plots, shapes
from s2d_ray.report.parts import Block, Section, Table
from s2d_ray.report.plots import Bar
from s2d_ray.report.sources import Source


def acceptance(sources: Sequence[Source]) -> Section:
    """What each exit is worth, and how true its confidence is."""
    blocks: list[Block] = []
    for source in sources:
        if isinstance(source.result, shapes.Evaluate):
            blocks += _evaluated(source.name, source.result)
        elif isinstance(source.result, shapes.Training):
            blocks.append(_trained(source.name, source.result))
    text = (
        "Exits guess each token of held-out text behind the target's own. Reliability: a guess of "
        "confidence c should be accepted in a share c of cases, which is the dotted line."
    )
    return Section("acceptance", "Acceptance by exit", text, blocks)


def _evaluated(name: str, result: shapes.Evaluate) -> Iterator[Block]:
    for target, found in result.targets.items():
        title = f"{target}, {name}"
        rows = [
            (
                f"exit {layers}, T = {temperature}",
                f"{accepted:.1%}",
                f"{one.coupled_over_optimal[temperature]:.3f}",
                f"{one.expected_accepted_length[temperature]:.2f}",
                f"{one.calibration_error[temperature]:.3f}",
                f"{one.cost.of_target_step:.2f}",
            )
            for layers, one in found.exits.items()
            for temperature, accepted in one.acceptance.items()
        ]
        head = ("", "accepted", "of the optimum", "accepted length", "calibration error")
        by_temperature: dict[str, list[tuple[float, float]]] = {}
        for layers, one in found.exits.items():
            for temperature, accepted in one.acceptance.items():
                by_temperature.setdefault(f"T = {temperature}", []).append((int(layers), accepted))
        pictures = [plots.lines(f"{title}: accepted", by_temperature, "layers", "P(accept)")]
        for layers, one in found.exits.items():
            bins = {
                f"T = {temperature}": [(confidence, share) for _, confidence, share in held]
                for temperature, held in one.reliability.items()
            }
            if bins:
                label = f"{title}: reliability of exit {layers}"
                drawn = plots.lines(label, bins, "confidence", "accepted", diagonal=True)
                pictures.append(drawn)
        tables = [Table((*head, "of a target's step"), tuple(rows))]
        yield Block(title, f"{found.tokens:,} tokens", pictures, tables)


def _trained(name: str, result: shapes.Training) -> Block:
    agreed = result.of_exits("agreed")
    chosen = [Bar(f"exit {layers}", share) for layers, share in agreed.items()]
    losses = result.of_exits("loss")
    rows = [
        (f"exit {layers}", f"{share:.1%}", f"{losses[layers]:.2f}" if layers in losses else "")
        for layers, share in agreed.items()
    ]
    text = f"Trained on {result.tokens:,} tokens, {result.step:,} steps; base {result.base}."
    return Block(
        name,
        text,
        [plots.bars(f"{name}: agreement on held-out text", chosen, "share of tokens", mark=None)],
        [Table(("", "agreement", "held-out loss"), tuple(rows))],
    )


def prediction(sources: Sequence[Source]) -> Section:
    """What calibration promised, and what came."""
    blocks: list[Block] = []
    for source in sources:
        if isinstance(source.result, shapes.Calibrate):
            blocks += _calibrated(source.name, source.result)
        elif isinstance(source.result, shapes.Sweep):
            for target, found in source.result.targets.items():
                title = f"{target}, {source.name}"
                points = {
                    plan: (one.predicted, one.measured) for plan, one in found.by_plan.items()
                }
                blocks.append(Block(title, "", [plots.agreement(f"{title}: plans", points)]))
    text = (
        "Speed over plain decoding by replay of recorded texts under measured costs, and by "
        "decoding for real; on the dotted line both are equal."
    )
    return Section("prediction", "Predicted and measured", text, blocks)


def _calibrated(name: str, result: shapes.Calibrate) -> Iterator[Block]:
    for target, classes in result.targets.items():
        title = f"{target}, {name}"
        chosen = [
            Bar(task, one.predicted_over_plain, one.interval) for task, one in classes.items()
        ]
        rows = []
        for task, one in classes.items():
            errors = [off for off in one.calibration_error.values() if off is not None]
            rows.append(
                (
                    task,
                    one.best,
                    f"{one.predicted_over_plain:.2f}",
                    f"{one.interval[0]:.2f}–{one.interval[1]:.2f}",
                    f"{one.held_out_over_plain:.2f}",
                    f"{max(errors):.3f}" if errors else "",
                    str(one.texts),
                )
            )
        head = ("class", "best plan", "predicted", "95 % of draws", "on the other half")
        tables = [Table((*head, "largest calibration error", "texts"), tuple(rows))]
        yield Block(title, "", [plots.bars(f"{title}: predicted", chosen)], tables)
