"""The report of `s2d bench engine`: from samples and costs to tables and one JSON object."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from s2d_ray.bench import figures
from s2d_ray.bench.comparisons import Singles
from s2d_ray.bench.figures import Sample, Spread
from s2d_ray.bench.ideal import Costs, ideal_seconds
from s2d_ray.core.cascade import Plan

FORWARD_ROWS = (1, 4, 8)


@dataclass(frozen=True)
class Measured:
    """All that was measured. ours: methods that must write what plain decoding writes."""

    singles: Singles
    crowds: Sequence[Sample]
    pair: Sequence[Sample]
    actor: Sequence[Sample]
    curves: Costs
    ours: Collection[str]
    plan: Plan
    prompts: Sequence[Sequence[int]]


def shares(measured: Measured, case: str) -> Spread:
    """Ideal over measured seconds of forced speculation, run by run."""
    return figures.spread(
        ideal_seconds(
            measured.singles.costs[case, each.run], each.written, measured.prompts, measured.plan
        )
        / each.seconds
        for each in figures.of(measured.singles.samples, case, "force")
    )


def differing(measured: Measured) -> list[str]:
    """Whatever of ours wrote other ids than it should have."""
    return [
        *figures.differing(measured.singles.samples, measured.ours, "plain"),
        *(f"crowd {name}" for name in figures.differing(measured.crowds, (), "plain")),
        *(f"pair {name}" for name in figures.differing(measured.pair, ["shared"], "private")),
        *(f"draft {name}" for name in figures.differing(measured.actor, ["actor"], "in_process")),
    ]


def result(measured: Measured) -> dict[str, Any]:
    """The figures of the last line; docs/benchmarks.md explains each."""
    singles, curves = measured.singles.samples, measured.curves
    share = {case: shares(measured, case).rounded for case in ("greedy", "sampled")}
    wrong = differing(measured)
    deepest = curves.exits[-1]
    return {
        "plain_vs_generate": figures.ratio(singles, "greedy", "plain", "generate").rounded,
        "plain_vs_continuous_batching": {
            case: figures.ratio(measured.crowds, case, "plain", "continuous").rounded
            for case in dict.fromkeys(each.case for each in measured.crowds)
        },
        "speculation": _speculation(singles, "greedy"),
        "speculation_sampled": _speculation(singles, "sampled"),
        "acceptance": {
            method: round(figures.acceptance(singles, "greedy", method), 4)
            for method in measured.ours
            if method != "plain"
        },
        "identical": not wrong,
        "differing": wrong,
        "actor_vs_in_process": figures.ratio(
            measured.actor, "greedy", "actor", "in_process"
        ).rounded,
        "share_of_ideal": min(share.values()),
        "shares_of_ideal": share,
        "forward_rows": {
            str(rows): round(curves.forward_s[1, rows] / curves.stock_s, 4) for rows in FORWARD_ROWS
        },
        "draft_rows_8_vs_1": round(curves.draft_s[deepest, 8] / curves.draft_s[deepest, 1], 4),
        "shared_vs_private": figures.ratio(
            measured.pair, measured.pair[0].case, "shared", "private"
        ).rounded,
    }


def _speculation(samples: Sequence[Sample], case: str) -> dict[str, float]:
    """Speed over plain decoding: ours over ours, the baselines' own over `generate`."""
    return {
        method: figures.ratio(samples, case, method, _baseline(method)).rounded
        for method in figures.methods_of(samples, case)
        if method not in ("plain", "generate")
    }


def _baseline(method: str) -> str:
    return "generate" if method in ("prompt_lookup", "assisted") else "plain"


def speed_table(title: str, samples: Sequence[Sample], baseline: str) -> Table:
    """Tokens per second of every method and case, and what was accepted of its guesses."""
    table = Table("case", "method", "tokens/s", f"over {baseline}", "accepted", "ids", title=title)
    for case in dict.fromkeys(each.case for each in samples):
        expected = figures.of(samples, case, baseline)[0].written.texts
        for method in figures.methods_of(samples, case):
            chosen = figures.of(samples, case, method)
            drafted = any(each.written.drafted for each in chosen)
            same = all(each.written.texts == expected for each in chosen)
            table.add_row(
                case,
                method,
                str(figures.speeds(samples, case, method)),
                str(figures.ratio(samples, case, method, baseline)),
                f"{figures.acceptance(samples, case, method):.1%}" if drafted else "",
                "same" if same else "others",
            )
    return table


def cost_tables(costs: Costs) -> list[Table]:
    """The curves: forwards in stock rows, draft steps in milliseconds."""
    forwards = Table("sequences", "tokens each", "ms", "of a stock row", title="target forwards")
    for (sequences, tokens), seconds in costs.forward_s.items():
        share = f"{seconds / costs.stock_s:.2f}"
        forwards.add_row(str(sequences), str(tokens), f"{1e3 * seconds:.1f}", share)
    counts = sorted({rows for _, rows in costs.draft_s})
    steps = Table("exit layer", *(f"{rows} rows, ms" for rows in counts), title="draft steps")
    for layer in costs.exits:
        steps.add_row(str(layer), *(f"{1e3 * costs.draft_s[layer, n]:.1f}" for n in counts))
    return [forwards, steps]


def share_table(measured: Measured) -> Table:
    """How near forced speculation comes to its bare forwards and draft steps."""
    table = Table("case", "share of the ideal", title="forced speculation without overhead")
    for case in ("greedy", "sampled"):
        table.add_row(case, str(shares(measured, case)))
    return table


def tables(measured: Measured) -> list[Table]:
    """All tables, in the order of the page that explains them."""
    return [
        speed_table("one text after another", measured.singles.samples, "plain"),
        speed_table("texts at once", measured.crowds, "continuous"),
        speed_table("two targets", measured.pair, "private"),
        speed_table("where the draft runs", measured.actor, "in_process"),
        share_table(measured),
        *cost_tables(measured.curves),
    ]


def headline(values: Mapping[str, Any]) -> list[str]:
    """What went wrong, one line each; empty if nothing did."""
    return [f"DIFFERS  {name}" for name in values["differing"]]
