"""`s2d bench`: measurements on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench_app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)


@bench_app.callback()
def _root() -> None:
    """Keeps `engine` a sub-command while it is the only one."""


@bench_app.command()
def engine(
    config: Annotated[
        Path | None, typer.Argument(help="A config file; by default the quickstart's.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer and shorter texts: minutes, not an hour.")
    ] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="Only what bare forwards and draft steps cost.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder the result is written to.")] = Path("results"),
    seed: Annotated[int, typer.Option(min=0, help="Order of the prompts, and their draws.")] = 1,
) -> None:
    """Compare the engines with `transformers`, with each other and with their bare forwards.

    The last line of the output is one JSON object; docs/benchmarks.md explains its figures.
    """
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config
    from s2d_ray.serve.lone_draft import own_environment

    parsed = load_config(config or default_config())
    try:
        with own_environment() as temp_dir:
            from s2d_ray.bench.engine import Settings, run  # loads torch: not before

            status = run(Settings(parsed, quick, curves, out, seed, temp_dir))
    except KeyboardInterrupt:
        typer.echo("s2d: interrupted", err=True)
        status = 130
    raise typer.Exit(status)
