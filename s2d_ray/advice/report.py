"""Advice for people: tables, as rich shows them or as Markdown, and a picture of the forecast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from s2d_ray.advice.forecast import CHANCE

Values = dict[str, Any]

FAR = 4
"""Times the highest load: from there on a capacity is not drawn."""

MOST_TENANTS = 20
"""Rows of a target; the JSON has all."""


@dataclass(frozen=True)
class Block:
    """A table and sentences below it; either may be empty."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """As rich shows it."""
        table = Table(*self.columns, title=self.title, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """The same as Markdown."""
        lines = [f"## {self.title}", ""]
        if self.rows:
            lines += [_line(self.columns), _line(("---",) * len(self.columns))]
            lines += [*map(_line, self.rows), ""]
        return "\n".join([*lines, *(f"- {note}" for note in self.notes), ""])


def blocks(values: Values) -> list[Block]:
    """All that there is to say, warnings before the assumptions."""
    found = [_costs(values), _replicas(values), _speculation(values), *_forecasts(values)]
    if values["warnings"]:
        found.append(Block("Warnings", notes=tuple(values["warnings"])))
    if skipped := values["skipped"]:
        found.append(Block("Lines that were skipped", notes=tuple(skipped)))
    found.append(Block("Assumptions", notes=tuple(values["assumptions"])))
    return [block for block in found if block is not None]


def when(time_s: float) -> str:
    """Unix seconds, by day and minute of UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%a %d %b %Y %H:%M")


def runs_out(found: Values, days: int) -> str:
    """When the load is more than the capacity, in a sentence."""
    earliest, likely, latest = (found[f"{key}_s"] for key in ("earliest", "likely", "latest"))
    if earliest is None:
        return f"Capacity suffices for the next {days} days."
    if likely is None:
        return f"Capacity probably suffices for {days} days, but may run out from {when(earliest)}."
    end = f"and {when(latest)}" if latest else f"and later than the next {days} days"
    return f"Capacity runs out between {when(earliest)} {end}, most likely {when(likely)}."


def _costs(values: Values) -> Block | None:
    cost = values["cost"]
    if cost is None:
        return None
    unit = values["currency"] or "replica-hours"
    key = "cost" if values["currency"] else "hours"
    rows = []
    for name, target in cost["targets"].items():
        rows.append((name, "all", *_bill(target, key)))
        tenants = sorted(target["tenants"].items(), key=lambda item: -item[1]["hours"])
        rows += [("", tenant, *_bill(own, key)) for tenant, own in tenants[:MOST_TENANTS]]
        if (others := len(tenants) - MOST_TENANTS) > 0:
            rows.append(("", f"… {others} more", "", "", "", "", ""))
        idle = _shown(target["idle_cost"] if key == "cost" else target["idle_hours"], 4)
        rows.append(("", "idle", "", _shown(target["idle_hours"], 2), "", "", idle))
    usage = values["usage"]
    span = f"{when(usage['began_s'])} to {when(usage['ended_s'])}, UTC"
    notes = [f"{usage['requests']:,} requests from {span}."]
    if values["currency"]:
        notes.append(f"All targets and the draft: {_shown(cost['total'], 4)} {unit}.")
    columns = (
        *("target", "tenant", "requests", "replica-hours"),
        *(f"{unit} per million output", "per million tokens", "in all"),
    )
    return Block("What tokens cost", columns, tuple(rows), tuple(notes))


def _bill(bill: Values, key: str) -> tuple[str, ...]:
    whole = bill["cost"] if key == "cost" else bill["hours"] + bill["draft_hours"]
    return (
        f"{bill['requests']:,}",
        f"{bill['hours']:.2f}",
        _shown(bill[f"{key}_per_million_output"], 4),
        _shown(bill[f"{key}_per_million_tokens"], 4),
        _shown(whole, 4),
    )


def _replicas(values: Values) -> Block:
    rows = tuple(
        (
            name,
            f"{each['requests_per_s']:.3f}",
            f"{each['prompt_tokens']:.0f} + {each['output_tokens']:.0f}",
            f"{each['replica_tokens_per_s']:.1f}",
            str(each["needed"]),
            f"{each['most']}{'' if each['needed'] <= each['most'] else ' — too few'}",
            _shown(each["cost_per_hour"], 4),
        )
        for name, each in values["replicas"].items()
    )
    columns = (
        *("target", "requests/s", "tokens, prompt + output", "tokens/s of a replica"),
        *("replicas needed", "at most", "an hour costs"),
    )
    return Block("What the load needs", columns, rows)


def _speculation(values: Values) -> Block | None:
    draft = values["draft"]
    if draft is None:
        return None
    rows = tuple(
        (
            name,
            f"{each['acceptance']:.2f}",
            f"{each['worth']:.2f} ×",
            _shown(each["break_even"], 2),
            str(each["replicas_of_one_draft"]),
        )
        for name, each in values["speculation"].items()
        if each is not None
    )
    columns = ("target", "acceptance", "over plain", "pays above", "replicas of one draft")
    return Block("What the draft is worth", columns, rows, tuple(_sharing(draft, values)))


def _sharing(draft: Values, values: Values) -> Iterator[str]:
    if not draft["pays"]:
        yield "By these costs speculation pays for no target: without a draft nothing is slower."
        return
    money = ""
    if draft["saved_per_hour"] is not None:
        money = f" ({draft['saved_per_hour']:.4f} {values['currency']} an hour)"
    yield (
        f"{draft['replicas']} replicas speculate: with {draft['private']} private drafts, or "
        f"{draft['shared']} shared. Sharing saves {draft['saved_drafts']} drafts{money}, with "
        f"{draft['saved_cache_mib']} MiB of caches and as many copies of the weights."
    )
    yield f"A guess takes {draft['saved_draft_time']:.0%} less of the draft's time when shared."


def _forecasts(values: Values) -> Iterator[Block]:
    for name, found in values["forecast"].items():
        if found is None:
            continue
        rows = []
        for what in ("requests", "tokens"):
            series = found[what]
            peak = max(range(len(series["likely"])), key=series["likely"].__getitem__)
            low, likely, high = (series[key][peak] for key in ("low", "likely", "high"))
            hour = when(series["begins_s"] + 3600 * peak)
            rows.append((what, hour, f"{likely:,.0f}", f"{low:,.0f} … {high:,.0f}"))
        days = len(found["tokens"]["likely"]) // 24
        at_peak, tokens = found["replicas_at_peak"], found["tokens"]
        notes = [
            f"At most replicas: {found['capacity_tokens_per_hour']:,.0f} output tokens an hour. "
            + runs_out(found["runs_out"], days),
            f"Replicas at the likely peak: {at_peak['likely']}; at the upper end of the interval: "
            f"{at_peak['high']}.",
            f"Method: {tokens['method']}.",
            *(
                f"On {each['days']} held-out days, {each['method']}: MASE {each['mase']:.2f}, "
                f"{each['coverage']:.0%} of the hours in their interval."
                for each in tokens["trials"]
            ),
        ]
        columns = ("an hour's", "peak", "likely", f"interval of {CHANCE:.0%}")
        yield Block(f"What comes: {name}", columns, tuple(rows), tuple(notes))


def draw(values: Values, path: Path) -> None:
    """Forecasts of output tokens and the capacity, a panel for each target."""
    from matplotlib.figure import Figure

    told = {name: found for name, found in values["forecast"].items() if found is not None}
    figure = Figure(figsize=(9, 3 * len(told)), layout="constrained")
    panels = figure.subplots(len(told), 1, squeeze=False)[:, 0]
    for panel, (name, found) in zip(panels, told.items(), strict=True):
        series = found["tokens"]
        hours = [
            datetime.fromtimestamp(series["begins_s"] + 3600 * hour, UTC)
            for hour in range(len(series["likely"]))
        ]
        panel.fill_between(hours, series["low"], series["high"], alpha=0.3)
        panel.plot(hours, series["likely"])
        capacity = found["capacity_tokens_per_hour"]
        if capacity < FAR * max(series["high"]):  # else there would be nothing but a gap
            panel.axhline(capacity, color="grey", linestyle="--")
        title = f"{name}: capacity {capacity:,.0f} output tokens an hour"
        panel.set(title=title, ylabel="output tokens / hour", ylim=(0, None))
    figure.savefig(path, metadata={"Software": None})


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
