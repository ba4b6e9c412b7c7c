"""A run for people: tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from s2d_ray.simulate.figures import Values
from s2d_ray.simulate.service import Simulation

MOST_TENANTS = 10
"""Rows of the table; the JSON line has all."""

BINS = 120


def tables(values: Values) -> list[Table]:
    """Targets, their times, tenants, and refusals if there are any."""
    targets = values["targets"]
    found = [_targets(targets), _times(targets), _tenants(values["tenants"])]
    refused = {
        (name, reason): count
        for name, target in targets.items()
        for reason, count in target["refused"].items()
    }
    if refused:
        table = Table("target", "refused for", "requests")
        for (name, reason), count in refused.items():
            table.add_row(name, reason, str(count))
        found.append(table)
    return found


def comparison_table(values: Values) -> Table:
    """Targets under each way to count load, on the same trace."""
    table = Table("target", "by", "hours", "max", "wait p95", "ttft p95", "tpot p95", "refused")
    table.title = "replicas and seconds by what is counted, on the same trace"
    for name in next(iter(values.values()))["targets"]:
        for by, run in values.items():
            target = run["targets"][name]
            replicas = target["replicas"]
            table.add_row(
                name,
                by,
                f"{replicas['hours']:.2f}",
                str(replicas["max"]),
                _shown(target["wait_s"]["p95"], 2),
                _shown(target["ttft_s"]["p95"], 2),
                _shown(target["tpot_s"]["p95"], 3),
                str(sum(target["refused"].values())),
            )
    return table


def _targets(targets: dict[str, Any]) -> Table:
    table = Table(
        "target", "replicas min/mean/max", "hours", "finished", "refused", "open", "tokens/s"
    )
    for name, target in targets.items():
        replicas = target["replicas"]
        table.add_row(
            name,
            f"{replicas['min']} / {replicas['mean']:.2f} / {replicas['max']}",
            f"{replicas['hours']:.2f}",
            str(target["finished"]),
            str(sum(target["refused"].values())),
            str(target["open"]),
            f"{target['goodput_tokens_per_s']:.1f}",
        )
    return table


def _times(targets: dict[str, Any]) -> Table:
    table = Table("target", "seconds", "p50", "p95", "p99")
    for name, target in targets.items():
        for key in ("wait_s", "ttft_s", "tpot_s"):
            cells = [_shown(value, 3) for value in target[key].values()]
            table.add_row(name, key.removesuffix("_s"), *cells)
    return table


def _tenants(tenants: dict[str, Any]) -> Table:
    table = Table("tenant", "requests", "refused", "wait p95, s", "share of tokens")
    for name, tenant in list(tenants.items())[:MOST_TENANTS]:
        table.add_row(
            name,
            str(tenant["arrived"]),
            str(tenant["refused"]),
            _shown(tenant["wait_p95_s"], 2),
            f"{tenant['share']:.1%}",
        )
    if (others := len(tenants) - MOST_TENANTS) > 0:
        table.add_row(f"… {others} more", "", "", "", "")
    return table


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def draw(runs: dict[str, Simulation], path: Path) -> None:
    """Arrivals, replicas and waits over time: a column for each target, a line for each run."""
    from matplotlib.figure import Figure

    names = list(next(iter(runs.values())).pools)
    figure = Figure(figsize=(6 * len(names), 9), layout="constrained")
    panels = figure.subplots(3, len(names), squeeze=False, sharex=True)
    for column, name in enumerate(names):
        rates, replicas, waits = panels[:, column]
        for label, run in runs.items():
            _draw_target(run, name, label, rates, replicas, waits)
        rates.set(title=name, ylabel="arrivals / s")
        replicas.set(ylabel="replicas that run", ylim=(0, None))
        waits.set(ylabel="longest wait, s", xlabel="minutes", ylim=(0, None))
        if len(runs) > 1:
            replicas.legend()
    figure.savefig(path, metadata={"Software": None})


def _draw_target(
    run: Simulation, name: str, label: str, rates: Any, replicas: Any, waits: Any
) -> None:
    end_s = run.clock.now_s
    counts = run.pools[name].counts
    minutes = [*(count.time_s / 60 for count in counts), end_s / 60]
    running = [count.running for count in counts]
    replicas.step(minutes, [*running, running[-1]], where="post", label=label)
    width_s = end_s / BINS
    arrived = [0] * BINS
    longest = [0.0] * BINS
    for request in run.requests:
        if request.arrival.target == name:
            place = min(BINS - 1, int(request.arrival.at_s / width_s))
            arrived[place] += 1
            longest[place] = max(longest[place], request.wait_s or 0.0)
    middles = [(place + 0.5) * width_s / 60 for place in range(BINS)]
    rates.step(middles, _per_s(arrived, width_s), where="mid", color="grey")
    waits.step(middles, longest, where="mid")


def _per_s(counts: Sequence[int], width_s: float) -> list[float]:
    return [count / width_s for count in counts]
