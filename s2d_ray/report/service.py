"""Section of the whole service: under load, and its router over a bare echo."""

from __future__ import annotations

from collections.abc import Sequence

from s2d_ray.report import plots, shapes
from s2d_ray.report.parts import Block, Section, Table
from s2d_ray.report.plots import Bar
from s2d_ray.report.sources import Source


def section(sources: Sequence[Source]) -> Section:
    """Answers, goodput and waiting by offered rate; requests of the router over the echo's."""
    blocks = []
    for source in sources:
        if isinstance(source.result, shapes.Load):
            blocks.append(_load(source.name, source.result))
        elif isinstance(source.result, shapes.Router):
            blocks.append(_router(source.name, source.result))
    text = (
        "Requests over HTTP. TTFT: until the first token; TPOT: per token behind it; both of "
        "answered requests, in milliseconds."
    )
    return Section("service", "The service", text, blocks)


def _load(name: str, result: shapes.Load) -> Block:
    percentiles = list(result.runs[0].ttft_ms) if result.runs else []
    rows = tuple(
        (
            f"{run.offered_per_s:g}",
            f"{run.answered}/{run.requests}",
            f"{run.goodput_tokens_per_s:.1f}",
            *(f"{of[each]:.0f}" for of in (run.ttft_ms, run.tpot_ms) for each in percentiles),
        )
        for run in result.runs
    )
    waits = [f"{what} {each}" for what in ("TTFT", "TPOT") for each in percentiles]
    head = ("requests a second", "answered", "tokens/s", *waits)
    return Block(name, result.card.get("model", ""), (), [Table(head, rows)])


def _router(name: str, result: shapes.Router) -> Block:
    chosen = [
        Bar(f"{case}, {clients} clients", cell.ratio[0], (cell.ratio[1], cell.ratio[2]))
        for case, by_clients in result.cases.items()
        for clients, cell in by_clients.items()
    ]
    title = f"{name}: requests a second"
    return Block(name, "", [plots.bars(title, chosen, "over a bare echo")])
