"""`s2d bench`: measurements on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from s2d_ray.report.cli import compare

bench_app = typer.Typer(help="Measure on this machine.", no_args_is_help=True)
bench_app.command()(compare)


Config = Annotated[Path | None, typer.Argument(help="A config file; by default the quickstart's.")]


@bench_app.command()
def engine(
    config: Config = None,
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


@bench_app.command()
def spec(
    questions: Annotated[
        Path | None, typer.Option(help="JSONL in Spec-Bench's format; not shipped.")
    ] = None,
    config: Config = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A target of the config, repeatable; by default all.")
    ] = None,
    plans: Annotated[
        str,
        typer.Option(
            metavar="P,P",
            help="Of plain, cascade, sorted, exit-N, tier-0, prompt-lookup, assisted; by default "
            "all.",
        ),
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1_024,
    limit_per_group: Annotated[
        int | None, typer.Option(min=1, help="Questions of each group; by default all.")
    ] = None,
    first_turns: Annotated[
        bool, typer.Option("--first-turns", help="Only the first answer of each conversation.")
    ] = False,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0.0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="The first target, the shortest question of each group, 16 tokens: minutes.",
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(help="Folder of answers and report; a killed run goes on in it.")
    ] = Path("results/spec"),
    seed: Annotated[int, typer.Option(min=0, help="Of the draws, where T is above 0.")] = 1,
) -> None:
    """Speculation over plain decoding on Spec-Bench's six groups, by its protocol.

    The last line of the output is one JSON object; docs/benchmarks.md explains its figures.
    """
    from s2d_ray.bench.questions import WHERE_FROM
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config
    from s2d_ray.errors import ConfigError
    from s2d_ray.serve.lone_draft import own_environment

    if questions is None:
        raise ConfigError(f"--questions: name a file of questions; {WHERE_FROM}")
    parsed = load_config(config or default_config())
    try:
        with own_environment():
            from s2d_ray.bench.spec import Settings, run  # loads torch: not before

            status = run(
                Settings(
                    parsed,
                    questions,
                    out,
                    tuple(target or ()),
                    tuple(name.strip() for name in plans.split(",") if name.strip()),
                    max_new_tokens,
                    limit_per_group,
                    first_turns,
                    temperature,
                    quick,
                    seed,
                )
            )
    except KeyboardInterrupt:
        typer.echo("s2d: interrupted; the same command goes on", err=True)
        status = 130
    raise typer.Exit(status)


@bench_app.command()
def router(
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each figure.")] = 5,
    requests: Annotated[int, typer.Option(min=1, help="Requests of one sample.")] = 200,
    out: Annotated[Path, typer.Option(help="Folder the result is written to.")] = Path("results"),
) -> None:
    """Requests a second through edge and router, over a bare echo on the same Ray Serve.

    The last line of the output is one JSON object; docs/benchmarks.md explains its figures.
    """
    from s2d_ray.serve.lone_draft import own_environment

    try:
        with own_environment() as temp_dir:
            from s2d_ray.bench.router import run  # loads Ray: not before

            status = run(rounds, requests, out, temp_dir)
    except KeyboardInterrupt:
        typer.echo("s2d: interrupted", err=True)
        status = 130
    raise typer.Exit(status)
