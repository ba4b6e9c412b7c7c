"""`s2d calibrate`: traces → costs and acceptance → the plans worth having, per target and task."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2d_ray.bench.bar import StderrBar, stderr_bar
from s2d_ray.bench.card import config_hash, host_card
from s2d_ray.bench.costs import provenance
from s2d_ray.config import AppConfig, DraftConfig
from s2d_ray.core.cost_model import CostModel
from s2d_ray.core.goodput import PLAIN, goodput
from s2d_ray.core.replay import Trace
from s2d_ray.errors import ConfigError
from s2d_ray.models import draft_files, sources
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.pictures import need_pictures
from s2d_ray.plan_file import (
    CandidateRow,
    ClassPlans,
    DraftMark,
    Made,
    MapRow,
    PlanFile,
    TargetPlans,
    source_of,
)
from s2d_ray.tuning import calibrate_report, gather, search
from s2d_ray.tuning.acceptance import fit
from s2d_ray.tuning.calibrate_report import Calibrated
from s2d_ray.tuning.gather import Scale
from s2d_ray.tuning.prompts import Asked
from s2d_ray.tuning.search import ROWS, Grid, Replayed
from s2d_ray.tuning.trace_file import TraceFile

PLANS = "plans.json"

PARTS = 10
"""Of the search: so often the bar moves."""

GRAM = 3
"""Shortest match of tier 0 in the maps."""


@dataclass(frozen=True)
class Settings:
    """What a run was asked for. work: folder of traces, costs and report. out: the plan file.
    hop_s: of a call of the draft actor. targets: empty means all."""

    config: AppConfig
    asked: Sequence[Asked]
    work: Path
    out: Path
    scale: Scale
    grid: Grid
    hop_s: float
    targets: tuple[str, ...] = ()
    seed: int = 1

    @property
    def names(self) -> list[str]:
        """The targets to calibrate. Raises ConfigError for one the config lacks."""
        for name in self.targets:
            if name not in self.config.targets:
                held = ", ".join(self.config.targets)
                raise ConfigError(f"--target: {name} is none of the config's: {held}")
        return list(self.targets or self.config.targets)


def run(settings: Settings) -> int:
    """Gather, learn, search, write, print. -> exit code."""
    need_pictures()
    draft = settings.config.draft
    if draft is None:
        raise ConfigError("calibrate: the config has no draft, so there is nothing to plan")
    names = settings.names
    with stderr_bar() as bar:
        folder = draft_files.ensure_draft(draft, report=bar.say)
        mark = DraftMark(
            source=source_of(draft),
            exit_layers=draft_files.read_card(folder).exit_layers,
            weights=hash_of_weights(folder),
        )
        file = TraceFile(settings.work, identity(settings, mark.weights))
        shown = card(settings, mark)
        for name, value in shown.items():
            print(f"{name:<10} {value}", flush=True)
        targets = {}
        found: dict[str, dict[str, Calibrated]] = {}
        for name in names:
            costs, weights = _measure(settings, name, file, bar)
            found[name] = _learn(settings, draft, name, costs, file, bar)
            config = settings.config.targets[name]
            targets[name] = TargetPlans(
                model=config.model,
                precision=config.precision,
                weights=weights,
                costs=costs,
                classes={task: plans_of(each, costs) for task, each in found[name].items()},
            )
    made = Made(**asdict(provenance()))
    plans = PlanFile(made=made, draft=mark, targets=targets)
    _save(settings.out, plans)
    line = calibrate_report.report(found, plans, shown, settings.work)
    print(f"\nplan file: {settings.out}; name it in the config: plans: {settings.out}")
    print(line)
    return 0


def identity(settings: Settings, draft: str) -> dict[str, Any]:
    """What traces and costs depend on."""
    return {
        "config": config_hash(settings.config),
        "draft": draft,
        "scale": asdict(settings.scale),
        "seed": settings.seed,
        "prompts": [[each.number, each.text] for each in settings.asked],
    }


def card(settings: Settings, mark: DraftMark) -> dict[str, str]:
    """Host and code, before any result."""
    scale = settings.scale
    return host_card(settings.config, settings.names) | {
        "draft": f"{mark.source}, exits {mark.exit_layers}",
        "scale": f"{len(settings.asked[: scale.limit])} prompts, T {scale.temperatures}, "
        f"{scale.max_new_tokens} tokens at most, seed {settings.seed}",
        "hop": f"{1e3 * settings.hop_s:.2f} ms",
    }


def _measure(
    settings: Settings, name: str, file: TraceFile, bar: StderrBar
) -> tuple[CostModel, str]:
    """Traces into the file. -> costs, and the hash of the target's weights."""
    with ExitStack() as stack:
        parts = gather.parts_for(settings.config, name, stack, bar.say)
        network = gather.network_of(parts)
        bar.say(f"measuring costs of {name}")
        path = settings.work / f"costs-{name}.json"
        costs = gather.costs_of(parts, network, settings.hop_s, path, settings.scale, settings.seed)
        cases = gather.cases_of(parts, settings.asked, settings.scale, settings.seed)
        advance = bar.open(f"texts of {name}", len(cases))
        gather.gather(parts, name, cases, network, file, advance)
        weights = hash_of_weights(sources.resolve(parts.target_config.model, report=bar.say))
    gc.collect()  # the next target needs the memory
    return costs, weights


def _learn(
    settings: Settings,
    draft: DraftConfig,
    name: str,
    costs: CostModel,
    file: TraceFile,
    bar: StderrBar,
) -> dict[str, Calibrated]:
    """Maps and plans of each class of task that has texts."""
    by_task: dict[str, list[Trace]] = {}
    for each in file.held:
        if each.target == name and len(each.trace.output_ids) > 1:
            by_task.setdefault(each.task, []).append(each.trace)
    found = {}
    for task, traces in sorted(by_task.items()):
        model = fit(traces, GRAM)
        plans = settings.grid.plans(traces[0].exit_layers, model)
        advance = bar.open(f"plans for {name}, {task}", PARTS)
        replayed: list[Replayed] = []
        for number, one in enumerate(search.replay_all(plans, traces, draft.max_debt, costs)):
            replayed.append(one)
            if (number + 1) * PARTS // len(plans) > number * PARTS // len(plans):
                advance(f"{number + 1} of {len(plans)}")
        kept = search.worth_keeping([each.candidate() for each in replayed], costs)
        best = next(each for each in replayed if each.plan == kept[0].plan)
        found[task] = Calibrated(
            traces,
            model,
            replayed,
            kept,
            search.held_out_gain(replayed, costs),
            search.interval(best, costs),
        )
    return found


def plans_of(found: Calibrated, costs: CostModel) -> ClassPlans:
    """As the plan file has them, with what is predicted here."""
    rows = []
    for candidate in found.kept:
        speeds = {n: goodput(candidate, costs, n) for n in ROWS}
        over = {n: speeds[n] / goodput(PLAIN, costs, n) for n in ROWS}
        row = CandidateRow.of(candidate)
        rows.append(row.model_copy(update={"goodput": speeds, "over_plain": over}))
    maps = tuple(
        MapRow.model_validate(asdict(each) | {"knots": [asdict(knot) for knot in each.knots]})
        for each in found.model.maps
    )
    return ClassPlans(acceptance=maps, candidates=tuple(rows), texts=len(found.traces))


def _save(path: Path, plans: PlanFile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    tree: Mapping[str, Any] = plans.model_dump(mode="json")
    partial.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
