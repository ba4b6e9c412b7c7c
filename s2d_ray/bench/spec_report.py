"""The report of `s2d bench spec`: Markdown, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from s2d_ray.bench import spec_figures
from s2d_ray.bench.spec_figures import BASELINE, PEERS, Answered


def report(
    held: Sequence[Answered],
    targets: Sequence[str],
    plans: Sequence[str],
    card: Mapping[str, str],
    out: Path,
) -> tuple[str, str, list[str]]:
    """Write report.md, report.json and the pictures into `out`.

    -> table, JSON line, and "target plan" of each plan of ours that wrote other ids than plain.
    """
    ours = [plan for plan in plans if plan != BASELINE]
    found = {
        name: spec_figures.target_figures([each for each in held if each.target == name], ours)
        for name in targets
    }
    table = "\n".join(_lines(found))
    line = json.dumps({"targets": found, "card": dict(card)})
    shown = "\n".join(f"- {name}: {value}" for name, value in card.items())
    (out / "report.md").write_text(f"# Spec-Bench\n\n{shown}\n\n{table}\n", encoding="utf-8")
    (out / "report.json").write_text(line + "\n", encoding="utf-8")
    for name, figures in found.items():
        _draw(figures, f"{name}: speed over plain decoding", "speedup", out / f"speed-{name}.png")
        _draw(
            figures,
            f"{name}: mean accepted length",
            "mean_accepted_length",
            out / f"accepted-{name}.png",
        )
    wrong = [
        f"{name} {plan}"
        for name, figures in found.items()
        for plan, one in figures["plans"].items()
        if plan not in PEERS and not one["identical"]
    ]
    return table, line, wrong


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Speed over our own plain decoding, per group the mean of its questions' tokens per second "
        "over plain's. Lowest and highest are of single questions. Ids: answers with the very ids "
        "of plain decoding; the last two plans are those of `transformers`, on the same linear "
        "layers, and may differ where two tokens are nearly as likely."
    )
    for name, figures in found.items():
        groups = list(figures["questions"])
        total = sum(figures["questions"].values())
        yield f"\n## {name}\n"
        yield _row("plan", *groups, "overall", "lowest–highest", "accepted length", "ids")
        yield "|---" * (len(groups) + 5) + "|"
        plain = figures["plain"]
        speeds = [f"{plain['groups'][group]:.2f}" for group in groups]
        yield _row("plain, tokens/s", *speeds, f"{plain['tokens_per_second']:.2f}", "", "", "")
        for plan, one in figures["plans"].items():
            ratios = [f"{one['speedup']['groups'][group]:.2f}" for group in groups]
            low, high = one["spread"]["ends"]
            yield _row(
                plan,
                *ratios,
                f"{one['speedup']['overall']:.2f}",
                f"{low:.2f}–{high:.2f}",
                f"{one['mean_accepted_length']:.2f}",
                f"{one['identical_questions']}/{total}",
            )
        yield "\nWho guessed what was accepted, and draft steps by exit:\n"
        yield _row("plan", "accepted guesses by exit (0: tier 0)", "draft steps by exit")
        yield "|---|---|---|"
        for plan, one in figures["plans"].items():
            if one["accepted_by"] or one["draft_steps"]:
                yield _row(plan, _shown(one["accepted_by"]), _shown(one["draft_steps"]))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{layers}: {share:.0%}" for layers, share in shares.items())


def _draw(figures: Mapping[str, Any], title: str, key: str, path: Path) -> None:
    """Bars of each plan, group by group."""
    from matplotlib.figure import Figure

    groups, plans = list(figures["questions"]), figures["plans"]
    figure = Figure(figsize=(2 + 1.6 * len(groups), 4.5), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / max(1, len(plans))
    for number, (plan, one) in enumerate(plans.items()):
        values = one["speedup"]["groups"] if key == "speedup" else one["mean_accepted_lengths"]
        places = [place + width * (number + 0.5) - 0.4 for place in range(len(groups))]
        panel.bar(places, [values[group] for group in groups], width, label=plan)
    panel.axhline(1.0, color="grey", linestyle=":")
    panel.set(title=title, xticks=range(len(groups)))
    panel.set_xticklabels(groups)
    figure.legend(loc="outside right upper")
    figure.savefig(path, metadata={"Software": None})
