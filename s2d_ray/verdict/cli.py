"""`s2d verdict`: parse and run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from s2d_ray.config import AppConfig

QUICK_HOP_S = 0.001
"""What a call of the draft is taken for in a quick run, which starts no Ray to ask."""


def verdict(
    config: Annotated[
        Path | None, typer.Argument(help="A config file; by default the quickstart's.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of all results and the page; a killed run goes on in it.")
    ] = Path("results/verdict"),
    draft: Annotated[
        Path | None, typer.Option(help="Folder of a draft, in place of the config's.")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="A target of the config, repeatable; by default all.")
    ] = None,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="A finished corpus of a target, repeatable; else one is written."),
    ] = None,
    questions: Annotated[
        Path | None,
        typer.Option(help="JSONL in Spec-Bench's format; by default a few built-in prompts."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few short texts and few plans: minutes.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of texts and draws.")] = 1,
) -> None:
    """Does a draft earn its place? Evaluate, calibrate, benchmark; write a page with the verdict.

    Exit code 0: it does, for every target; 1: not, or it cannot be told; with --quick, which asks
    too little to tell, only 1 if texts differ. The last line is JSON; docs/reports.md explains it.
    """
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config
    from s2d_ray.serve.lone_draft import own_environment

    parsed = load_config(config or default_config())
    if draft is not None:
        parsed = _with_draft(parsed, draft)
    try:
        with own_environment() as temp_dir:
            from s2d_ray.tuning.cli import hop_seconds
            from s2d_ray.verdict.steps import QUICK, WHOLE, Settings, run  # loads torch: not before

            given_ms = 1e3 * QUICK_HOP_S if quick else None
            status = run(
                Settings(
                    parsed,
                    out,
                    lambda work: hop_seconds(given_ms, parsed, work, temp_dir),
                    tuple(target or ()),
                    tuple(corpus or ()),
                    questions,
                    QUICK if quick else WHOLE,
                    seed,
                )
            )
    except KeyboardInterrupt:
        typer.echo("s2d: interrupted; the same command goes on", err=True)
        status = 130
    raise typer.Exit(status)


def _with_draft(config: AppConfig, folder: Path) -> AppConfig:
    """The config with another draft in the place and the settings of its own."""
    from s2d_ray.config import DraftConfig
    from s2d_ray.errors import ConfigError

    if not folder.is_dir():
        raise ConfigError(f"--draft: {folder} is no folder; name that of a trained draft")
    fields = {} if config.draft is None else config.draft.model_dump(exclude={"base"})
    changed = DraftConfig.model_validate(fields | {"checkpoint": str(folder)})
    return config.model_copy(update={"draft": changed})
