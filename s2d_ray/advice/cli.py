"""`s2d advise`: parse, ask, print."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from s2d_ray.advice.records import Usage
    from s2d_ray.config import AppConfig
    from s2d_ray.core.cost_model import CostModel
    from s2d_ray.plan_file import PlanFile


def advise(
    config: Annotated[Path, typer.Argument(help="A config file; its `prices` are optional.")],
    usage: Annotated[
        list[Path] | None,
        typer.Option(
            help="Usage records of the ledger, repeatable; by default usage.jsonl and its older "
            "files in tenancy.state_dir, if they are there."
        ),
    ] = None,
    plans: Annotated[
        Path | None,
        typer.Option(help="The plan file of `s2d calibrate`; by default the config's, if any."),
    ] = None,
    costs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TARGET=]FILE",
            help="Costs of steps, as for `s2d simulate`; by default the plan file's, else packaged "
            "ones.",
        ),
    ] = None,
    acceptance: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.99, help="P(a guess is right); by default as in the records or plan file."
        ),
    ] = None,
    load: Annotated[
        float | None,
        typer.Option(
            min=0.001, metavar="RPS", help="Requests a second; by default the busiest hour's."
        ),
    ] = None,
    forecast_days: Annotated[
        int, typer.Option(min=0, max=60, help="Forecast the load of so many days.")
    ] = 0,
    json_only: Annotated[bool, typer.Option("--json", help="Print the JSON line alone.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the same as Markdown, JSON and a picture.")
    ] = None,
) -> None:
    """Say what tokens cost, what a load needs, what the draft is worth, when capacity runs out.

    Reads files only; no service has to run. The last line of the output is one JSON object;
    docs/advice.md explains it.
    """
    from rich.console import Console

    from s2d_ray.advice import advise as advice
    from s2d_ray.advice.assumptions import assumptions
    from s2d_ray.advice.records import SHOWN
    from s2d_ray.config import load_config
    from s2d_ray.errors import DataError

    parsed = load_config(config)
    if out is not None:
        from s2d_ray.pictures import need_pictures

        need_pictures()
    console = Console(stderr=json_only)
    plan_file = _plans(parsed, plans)
    found, skipped = _usage(parsed, usage)
    for line in skipped[:SHOWN]:
        typer.echo(f"s2d: {line}; skipped", err=True)
    if len(skipped) > SHOWN:
        typer.echo(f"s2d: … and {len(skipped) - SHOWN} more lines", err=True)
    if forecast_days and not len(found):
        raise DataError("--forecast-days: there are no usage records; name some by --usage")
    step_costs, given = _costs(parsed, plan_file, costs or [])
    asked = advice.Question(parsed, step_costs, found, plan_file, acceptance, load, forecast_days)
    with Console(stderr=True).status("computing" + ", forecasting" * bool(forecast_days)):
        values = advice.advise(asked)
    values["skipped"] = skipped[:SHOWN]
    values["num_skipped"] = len(skipped)
    values["assumptions"] = assumptions(asked, values, given)
    if not json_only:
        _show(values, console)
    if out is not None:
        _write(values, out, console)
    typer.echo(json.dumps(values))


def _plans(config: AppConfig, given: Path | None) -> PlanFile | None:
    from s2d_ray.plan_file import load_plan_file

    path = given or (Path(config.plans) if config.plans else None)
    return load_plan_file(path) if path is not None and (given or path.exists()) else None


def _usage(config: AppConfig, given: list[Path] | None) -> tuple[Usage, list[str]]:
    from rich.console import Console
    from rich.progress import Progress

    from s2d_ray.advice.records import read_usage

    paths = given or []
    if not given and config.tenancy is not None:
        paths = sorted(Path(config.tenancy.state_dir).glob("usage.jsonl*"))
    size = sum(path.stat().st_size for path in paths if path.exists())
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading usage", total=size)
        return read_usage(paths, lambda count: progress.update(task, completed=count))


def _costs(
    config: AppConfig, plans: PlanFile | None, given: list[str]
) -> tuple[dict[str, CostModel], bool]:
    """By target: given ones first, then the plan file's. And whether none is a packaged one."""
    from s2d_ray.simulate.setup import costs_of

    found = costs_of(config, given)
    named = {text.rpartition("=")[0] for text in given}
    known = set(found) if "" in named else named & set(found)
    for name in set(found) - known:
        if plans is not None and name in plans.targets:
            found[name] = plans.targets[name].costs
            known.add(name)
    return found, known == set(found)


def _show(values: dict[str, Any], console: Console) -> None:
    from s2d_ray.advice.report import blocks

    for block in blocks(values):
        if block.rows:
            console.print(block.table())
        else:
            console.print(block.title, style="bold")
        for note in block.notes:
            console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
        console.print()


def _write(values: dict[str, Any], out: Path, console: Console) -> None:
    from s2d_ray.advice.report import blocks, draw

    out.mkdir(parents=True, exist_ok=True)
    stem = out / f"advise-{time.strftime('%Y%m%d-%H%M%S')}"
    markdown = "\n".join(block.markdown() for block in blocks(values))
    stem.with_suffix(".md").write_text(f"# Resources and cost\n\n{markdown}", encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    suffixes = ".md, .json"
    if any(found is not None for found in values["forecast"].values()):
        draw(values, stem.with_suffix(".png"))
        suffixes += ", .png"
    console.print(f"written: {stem}{suffixes}", markup=False, highlight=False)
