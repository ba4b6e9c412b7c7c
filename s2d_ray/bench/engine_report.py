"""The report of `s2d bench engine`: from samples and costs to tables and one JSON object."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from s2d_ray.bench import figures
from s2d_ray.bench.comparisons import Singles
from s2d_ray.bench.figures import Sample, Spread
from s2d_ray.bench.ideal import Curves, ideal_seconds
from s2d_ray.core.cascade import Plan

FORWARD_ROWS = (1, 4, 8)


@dataclass(frozen=True)
class Measured:
    """All that was measured. ours: methods that must write what plain decoding writes."""

    singles: Singles
    crowds: Sequence[Sample]
    pair: Sequence[Sample]
    actor: Sequence[Sample]
    curves: Curves
    ours: Collection[str]
    plan: Plan
    prompts: Sequence[Sequence[int]]


def shares(measured: Measured, case: str) -> Spread:
    """Ideal over measured seconds of forced speculation, run by run."""
    return figures.spread(
        ideal_seconds(
            measured.singles.costs[case, each.run].model,
            each.written,
            measured.prompts,
            measured.plan,
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


def ratios(measured: Measured) -> dict[str, Spread | dict[str, Spread]]:
    """The figures that several runs gave; docs/benchmarks.md explains each."""
    singles, pair = measured.singles.samples, measured.pair
    return {
        "plain_vs_generate": figures.ratio(singles, "greedy", "plain", "generate"),
        "plain_vs_continuous_batching": {
            case: figures.ratio(measured.crowds, case, "plain", "continuous")
            for case in dict.fromkeys(each.case for each in measured.crowds)
        },
        "speculation": _speculation(singles, "greedy"),
        "speculation_sampled": _speculation(singles, "sampled"),
        "actor_vs_in_process": figures.ratio(measured.actor, "greedy", "actor", "in_process"),
        "shares_of_ideal": {case: shares(measured, case) for case in ("greedy", "sampled")},
        "shared_vs_private": figures.ratio(pair, pair[0].case, "shared", "private"),
    }


def result(measured: Measured) -> dict[str, Any]:
    """The figures of the last line: medians, and as `spread` the lowest and highest of each."""
    found, wrong = ratios(measured), differing(measured)
    medians = {name: _each(of, lambda one: one.rounded) for name, of in found.items()}
    return {
        **medians,
        "share_of_ideal": min(medians["shares_of_ideal"].values()),
        "spread": {name: _each(of, lambda one: one.ends) for name, of in found.items()},
        "acceptance": {
            method: round(figures.acceptance(measured.singles.samples, "greedy", method), 4)
            for method in measured.ours
            if method != "plain"
        },
        "identical": not wrong,
        "differing": wrong,
        **curve_values(measured.curves),
    }


def _each(found: Spread | dict[str, Spread], what: Callable[[Spread], Any]) -> Any:
    """`what` of one spread, or of each of several."""
    return {k: what(one) for k, one in found.items()} if isinstance(found, dict) else what(found)


def curve_values(curves: Curves) -> dict[str, Any]:
    """The figures of the curves, and the curves themselves in milliseconds."""
    stock_s, costs = curves.costs.stock_s, curves.costs.model
    deepest = costs.layers[-1]
    return {
        "forward_rows": {
            str(rows): round(costs.forward_s[1, rows] / stock_s, 4) for rows in FORWARD_ROWS
        },
        "draft_rows_8_vs_1": round(costs.draft_s[deepest, 8] / costs.draft_s[deepest, 1], 4),
        "curves_ms": {
            "stock": _ms(stock_s),
            "forward": {_shape(*shape): _ms(s) for shape, s in costs.forward_s.items()},
            "tree": {name: _ms(seconds) for name, seconds in curves.trees_s.items()},
            "prefill": {str(length): _ms(s) for length, s in costs.prefill_s.items()},
            "draft": {
                precision: {
                    f"{layer} layers, {_shape(n, 1)}": _ms(s) for (layer, n), s in by.items()
                }
                for precision, by in curves.drafts_s.items()
            },
        },
    }


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 3)


def _shape(num_sequences: int, num_rows: int) -> str:
    return f"{num_sequences} × {num_rows}"


def _speculation(samples: Sequence[Sample], case: str) -> dict[str, Spread]:
    """Speed over plain decoding: ours over ours, the baselines' own over `generate`."""
    return {
        method: figures.ratio(samples, case, method, _baseline(method))
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


def curve_tables(curves: Curves) -> list[Table]:
    """Forwards and draft steps, each in milliseconds and in rows of the stock model."""
    stock_s, costs = curves.costs.stock_s, curves.costs.model
    forwards = Table("sequences × rows", "ms", "of a stock row", title="target forwards")
    shapes = {_shape(*shape): seconds for shape, seconds in costs.forward_s.items()}
    prompts = {f"a prompt of {length}": seconds for length, seconds in costs.prefill_s.items()}
    for name, seconds in {**shapes, **curves.trees_s, **prompts}.items():
        forwards.add_row(name, f"{1e3 * seconds:.1f}", f"{seconds / stock_s:.2f}")
    counts = sorted({rows for _, rows in costs.draft_s})
    heads = [_shape(rows, 1) for rows in counts]
    steps = Table("exit layer", "draft", *heads, title="draft steps, ms (of a stock row)")
    for layer in costs.layers:
        for precision, draft_s in curves.drafts_s.items():
            cells = [draft_s[layer, rows] for rows in counts]
            shown = [f"{1e3 * cell:.1f} ({cell / stock_s:.2f})" for cell in cells]
            steps.add_row(str(layer), precision, *shown)
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
        *curve_tables(measured.curves),
    ]
