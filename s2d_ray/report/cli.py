"""`s2d report` and `s2d bench compare`: parse, read, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from s2d_ray.report.compare import Comparison


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Files with the last lines of `bench engine`, `bench spec`, `calibrate`, `sweep` "
            "and `evaluate-draft`, or the folders they wrote, or a draft's folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("results/report.html"),
    history: Annotated[
        Path | None,
        typer.Option(help="JSON lines that keep the figures of each result, and are plotted."),
    ] = None,
) -> None:
    """Make one HTML page of results: targets, plans, baselines, exits, and figures over time.

    The same results give the same page. docs/reports.md explains it.
    """
    from s2d_ray.job_folder import write_atomically
    from s2d_ray.report import history as past
    from s2d_ray.report.page import render
    from s2d_ray.report.sources import read_source

    sources = [read_source(path) for path in dict.fromkeys(results)]
    entries = past.append(history, sources) if history else []
    page = render(sources, entries)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page)
    typer.echo(out)


def compare(
    before: Annotated[Path, typer.Argument(help="A result, as for `s2d report`.")],
    after: Annotated[Path, typer.Argument(help="Another one of the same kind.")],
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON object.")] = False,
    fail_on_slower: Annotated[
        bool,
        typer.Option("--fail-on-slower", help="Exit code 1 if a figure of ours is worse."),
    ] = False,
) -> None:
    """Say which figures of two results changed beyond noise.

    For `bench spec` and `sweep` name the folders, which hold the answers to single questions. The
    last line of the output is one JSON object; docs/reports.md explains it.
    """
    from s2d_ray.report.compare import compare as compared
    from s2d_ray.report.sources import read_source

    found = compared(read_source(before), read_source(after))
    tree = found.to_json()
    if not as_json:
        _print(found, f"{before}", f"{after}")
    typer.echo(json.dumps(tree))
    raise typer.Exit(1 if fail_on_slower and tree["worse"] else 0)


def _print(found: Comparison, before: str, after: str) -> None:
    from rich.console import Console
    from rich.table import Table

    for name, values in found.cards.items():
        typer.echo(f"{name:<10} {values[0]}\n{'→':<10} {values[1]}")
    for note in found.notes:
        typer.echo(note)
    typer.echo(f"A: {before}\nB: {after}")
    table = Table("figure", "A", "B", "B/A", "chance", "verdict")
    for line in found.lines:
        table.add_row(
            line.name,
            f"{line.before:.4g}",
            f"{line.after:.4g}",
            "" if line.ratio is None else f"{line.ratio:.3f}",
            "" if line.chance is None else f"{line.chance:.3g}",
            line.verdict,
        )
    Console().print(table)
