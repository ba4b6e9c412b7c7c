"""`s2d dashboards`: parse, write, say what to start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dashboards(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("results/observe"),
    url: Annotated[
        str, typer.Option(help="The API, whose /metrics is scraped.")
    ] = "http://127.0.0.1:8000",
    key_file: Annotated[
        Path | None,
        typer.Option(help="File with an operator's key, where there are tenants."),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Of the alerts: first_token_s, first_token_share, served_share, max_waiting, "
            "refused_share, draft_load, runbooks.",
        ),
    ] = None,
) -> None:
    """Write Grafana dashboards, Prometheus alert rules, and configs that find them."""
    from s2d_ray.observe.export import thresholds_of, write_all

    for path in write_all(out, url, key_file, thresholds_of(threshold or [])):
        typer.echo(path)
    typer.echo(f"next: prometheus --config.file={out / 'prometheus.yml'}")
    typer.echo(f"and Grafana with GF_PATHS_PROVISIONING={out.resolve() / 'provisioning'}")
