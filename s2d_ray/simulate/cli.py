"""`s2d simulate`: parse, run, print."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from s2d_ray.simulate.traces import Kind

if TYPE_CHECKING:
    from s2d_ray.simulate.request import Arrival
    from s2d_ray.simulate.service import Service, Simulation

PARTS = 200
"""Of a run: so often the bar moves."""


def simulate(
    config: Annotated[
        Path | None, typer.Argument(help="A config file; by default the quickstart's.")
    ] = None,
    trace: Annotated[
        str, typer.Option(help="steady, bursty, diurnal, heavy-tailed, or a JSONL file.")
    ] = "bursty",
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Of the trace; by default 30, or the whole file.")
    ] = None,
    requests_per_s: Annotated[
        float, typer.Option(min=0.001, help="Mean rate of a drawn trace.")
    ] = 2.0,
    tenants: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000, help="Made-up ones without limits; by default the config's, or 4."
        ),
    ] = None,
    costs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TARGET=]FILE",
            help="Result of `s2d bench engine`, or costs-TARGET.json of `s2d calibrate`; by "
            "default a packaged one.",
        ),
    ] = None,
    acceptance: Annotated[
        float, typer.Option(min=0, max=0.99, help="P(a guess is right); 0: no speculation.")
    ] = 0.0,
    start_s: Annotated[
        float, typer.Option(min=0, help="From the decision to have a replica until it runs.")
    ] = 10.0,
    compare_scaling: Annotated[
        bool, typer.Option("--compare-scaling", help="Scale by requests and by tokens, in turn.")
    ] = False,
    usage_out: Annotated[
        Path | None,
        typer.Option(help="Write what the ledger would have written of each request, as JSONL."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder of the result and its picture.")] = Path(
        "results"
    ),
) -> None:
    """Run a trace through the service on a virtual clock, with the real ledger and scaling rule.

    The last line of the output is one JSON object; docs/simulation.md explains its figures.
    """
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config
    from s2d_ray.errors import ConfigError
    from s2d_ray.pictures import need_pictures
    from s2d_ray.policy.scaling import ScaleBy
    from s2d_ray.simulate import setup
    from s2d_ray.simulate.traces import draw_trace, read_trace
    from s2d_ray.simulate.usage import usage_records

    need_pictures()
    if usage_out is not None and compare_scaling:
        raise ConfigError("--usage-out writes one run; leave out --compare-scaling")
    parsed = load_config(config or default_config())
    if compare_scaling and not any(target.autoscaling for target in parsed.targets.values()):
        raise ConfigError("--compare-scaling: no target of the config has `autoscaling`")
    found_tenants = setup.tenants_of(parsed, tenants)
    mix = setup.mix_of(parsed, found_tenants)
    step_costs = setup.costs_of(parsed, costs or [])
    if trace in list(Kind):
        duration_s = 60 * (minutes or 30.0)

        def arrivals() -> Iterator[Arrival]:
            return draw_trace(
                Kind(trace), mix, duration_s=duration_s, per_s=requests_per_s, seed=seed
            )
    else:
        read = read_trace(Path(trace), mix)
        duration_s = 60 * minutes if minutes else read[-1].at_s + 60

        def arrivals() -> Iterator[Arrival]:
            return iter(read)

    def service(by: ScaleBy | None) -> Service:
        return setup.service_of(
            parsed, found_tenants, step_costs, start_s=start_s, acceptance=acceptance, by=by
        )

    runs: dict[str, Simulation] = {}
    seconds = {}
    for by in list(ScaleBy) if compare_scaling else [None]:
        label = by.value if by else "run"
        began_s = time.perf_counter()
        runs[label] = _run(service(by), arrivals(), duration_s, seed, label)
        seconds[label] = time.perf_counter() - began_s
    if usage_out is not None:
        lines = (f"{record.line()}\n" for record in usage_records(runs["run"]))
        usage_out.write_text("".join(lines), encoding="utf-8")
    card = {
        "trace": trace if trace in list(Kind) else Path(trace).name,
        "minutes": duration_s / 60,
        "requests_per_s": requests_per_s,
        "start_s": start_s,
        "acceptance": acceptance,
        "seed": seed,
        "costs": {
            name: f"{each.origin.host}, commit {each.origin.commit}"
            for name, each in step_costs.items()
        },
    }
    _report(runs, seconds, card, out)


def _run(
    service: Service, arrivals: Iterator[Arrival], duration_s: float, seed: int, label: str
) -> Simulation:
    from rich.console import Console
    from rich.progress import Progress

    from s2d_ray.simulate.service import Simulation

    simulation = Simulation(service, arrivals, seed)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(f"simulating, {label}", total=PARTS)
        for part in range(1, PARTS + 1):
            simulation.run(part * duration_s / PARTS)
            progress.advance(task)
    return simulation


def _report(
    runs: dict[str, Simulation], seconds: dict[str, float], card: dict[str, Any], out: Path
) -> None:
    from rich.console import Console

    from s2d_ray.bench.checkout import commit
    from s2d_ray.simulate.figures import figures
    from s2d_ray.simulate.report import comparison_table, draw, tables

    values = {label: figures(run) for label, run in runs.items()}
    console = Console()
    card["commit"] = commit()
    for key, value in card.items():
        console.print(f"{key:15} {value}", markup=False, highlight=False, soft_wrap=True)
    for label, each in values.items():
        if len(values) > 1:
            console.rule(f"scaled by {label}")
        for table in tables(each):
            console.print(table)
        events = runs[label].clock.num_events
        each["events"] = events
        each["seconds"] = round(seconds[label], 2)
        console.print(f"{events:,} events, {events / seconds[label]:,.0f} a second")
    if len(values) > 1:
        console.print(comparison_table(values))
    out.mkdir(parents=True, exist_ok=True)
    name = f"simulate-{time.strftime('%Y%m%d-%H%M%S')}"
    draw(runs, out / f"{name}.png")
    result = {**(values if len(values) > 1 else values["run"]), "card": card}
    (out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"written: {out / name}.json, .png", markup=False, highlight=False)
    typer.echo(json.dumps(result))
