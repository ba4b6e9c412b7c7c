"""`s2d bench engine`: our engines against `transformers` and against what they could be at best."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from s2d_ray.bench import comparisons, engine_report
from s2d_ray.bench.bar import StderrBar, stderr_bar
from s2d_ray.bench.card import host_card
from s2d_ray.bench.engine_report import Measured
from s2d_ray.bench.ideal import Costs, Curves, ceiling
from s2d_ray.bench.rig import QUICK, WHOLE, Rig, Scale
from s2d_ray.config import AppConfig


@dataclass(frozen=True)
class Settings:
    """What a run was asked for. temp_dir: for Ray, in the environment made ready for it."""

    config: AppConfig
    quick: bool
    only_curves: bool
    out: Path
    seed: int
    temp_dir: Path

    @property
    def scale(self) -> Scale:
        """How much to measure."""
        return QUICK if self.quick else WHOLE


def card(settings: Settings, rig: Rig, costs: Costs) -> dict[str, str]:
    """Host, code and ceiling, before any result."""
    claim = "bitwise exact" if rig.first.target.bitwise_exact else "NOT bitwise exact on this host"
    factor, layer, length = ceiling(costs.model, max(1, rig.plan.max_proposal))
    bare_ms = 1e3 * costs.model.forward(1, 1)
    host = host_card(settings.config)
    return host | {
        "target": f"{host['target']}, {claim}",
        "draft": f"exits {rig.exits}, {rig.draft_config.precision}",
        "scale": f"{settings.scale}, seed {settings.seed}",
        "ceiling": f"{1e3 / bare_ms:.2f} tokens/s plain ({bare_ms:.1f} ms a row); {factor:.2f} × "
        f"that if all of {length} guesses by exit {layer} were right",
    }


def measure(rig: Rig, bar: StderrBar, temp_dir: Path, curves: Curves) -> Measured:
    """All comparisons. Ray comes last, so that its threads run beside no other."""
    return Measured(
        singles=comparisons.write_singly(rig, bar),
        crowds=comparisons.write_in_crowds(rig, bar),
        pair=comparisons.write_for_two(rig, bar),
        actor=comparisons.write_by_actor(rig, bar, temp_dir),
        curves=curves,
        ours=list(comparisons.our_methods(rig)),
        plan=rig.plan,
        prompts=rig.greedy().prompts,
    )


def run(settings: Settings) -> int:
    """Measure, print, write. -> exit code: 1 if some method of ours wrote other ids."""
    started_s = time.monotonic()
    with ExitStack() as stack:
        bar = stack.enter_context(stderr_bar())
        rig = Rig(settings.config, settings.scale, settings.seed, stack, bar.say)
        bar.say("measuring costs")
        curves = rig.meter.curves(settings.scale.repeats)
        shown = card(settings, rig, curves.costs)
        for name, value in shown.items():
            print(f"{name:<10} {value}", flush=True)
        if settings.only_curves:
            tables, values = engine_report.curve_tables(curves), engine_report.curve_values(curves)
        else:
            measured = measure(rig, bar, settings.temp_dir, curves)
            tables, values = engine_report.tables(measured), engine_report.result(measured)
    for table in tables:
        Console().print(table)
    wrong = values.get("differing", [])
    for name in wrong:
        print(f"DIFFERS  {name}")
    values |= {"card": shown, "quick": settings.quick, "seed": settings.seed}
    values["runs"] = settings.scale.num_runs
    values["seconds"] = round(time.monotonic() - started_s, 1)
    save(settings.out, values)
    print(json.dumps(values))
    return 1 if wrong else 0


def save(out: Path, values: dict[str, Any]) -> None:
    """Write the JSON object below `out`, in a file of its own."""
    out.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    (out / f"engine-{stamp}.json").write_text(json.dumps(values, indent=2) + "\n")
