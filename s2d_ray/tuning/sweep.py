"""`s2d sweep`: plans × targets × prompts, written for real in turn, beside what was predicted."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from s2d_ray.bench.alternate import Case, Method, in_turn, warm_up
from s2d_ray.bench.bar import StderrBar, stderr_bar
from s2d_ray.bench.card import config_hash, host_card
from s2d_ray.bench.checkout import commit
from s2d_ray.bench.line_file import LineFile
from s2d_ray.bench.rig import MAX_BATCH
from s2d_ray.bench.spec_answers import AnswerFile
from s2d_ray.bench.spec_figures import BASELINE, PLANNED, Answered, joined
from s2d_ray.config import AppConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.core.goodput import PLAIN
from s2d_ray.core.replay import Trace
from s2d_ray.errors import ConfigError, DataError
from s2d_ray.pictures import need_pictures
from s2d_ray.plan_file import PlanFile, TargetPlans
from s2d_ray.tuning import gather, sweep_plans, sweep_report
from s2d_ray.tuning.gather import Scale
from s2d_ray.tuning.predict import Predictor
from s2d_ray.tuning.prompts import Asked
from s2d_ray.tuning.sweep_plans import Axes
from s2d_ray.tuning.sweep_report import Crowd, Swept

CROWDS = "crowds.jsonl"


@dataclass(frozen=True)
class Settings:
    """What a run was asked for. plans: the plan file; traces: those it was made from.
    crowds: numbers of texts that run together, each `runs` times."""

    config: AppConfig
    plans: PlanFile
    traces: Sequence[tuple[str, str, Trace]]
    asked: Sequence[Asked]
    out: Path
    scale: Scale
    axes: Axes
    crowds: tuple[int, ...]
    runs: int
    targets: tuple[str, ...] = ()
    seed: int = 1

    @property
    def names(self) -> list[str]:
        """The targets to measure. Raises ConfigError for one the plan file lacks."""
        for name in self.targets:
            if name not in self.plans.targets:
                held = ", ".join(self.plans.targets)
                raise ConfigError(f"--target: {name} is none of the plan file's: {held}")
        return list(self.targets or self.plans.targets)


def run(settings: Settings) -> int:
    """Measure, report, print. -> exit code: 1 if a plan wrote other ids than plain decoding."""
    need_pictures()
    if troubles := list(settings.plans.troubles(settings.config)):
        raise ConfigError("\n".join(f"plan file: {trouble}" for trouble in troubles))
    _check_traces(settings)
    answers = AnswerFile(settings.out, identity(settings))
    crowds = LineFile(settings.out, CROWDS, identity(settings), lambda tree: Crowd(**tree))
    shown = card(settings)
    for name, value in shown.items():
        print(f"{name:<10} {value}", flush=True)
    found = {}
    with stderr_bar() as bar:
        for name in settings.names:
            found[name] = _sweep(settings, name, answers, crowds, bar)
            gc.collect()  # the next target needs the memory
    line, wrong = sweep_report.report(found, settings.axes, shown, settings.out)
    for name in wrong:
        print(f"DIFFERS  {name}")
    print(line)
    return 1 if wrong else 0


def identity(settings: Settings) -> dict[str, Any]:
    """What the answers depend on."""
    return {
        "config": config_hash(settings.config),
        "plans": settings.plans.digest,
        "scale": asdict(settings.scale),
        "axes": asdict(settings.axes),
        "seed": settings.seed,
        "prompts": [[each.number, each.text] for each in settings.asked],
    }


def card(settings: Settings) -> dict[str, str]:
    """Host and code, before any result."""
    made, scale = settings.plans.made, settings.scale
    return host_card(settings.config, settings.names) | {
        "draft": settings.plans.draft.source,
        "plans": f"made on {made.host}, commit {made.commit}, {made.date}",
        "scale": f"{len(settings.asked[: scale.limit])} prompts, {scale.max_new_tokens} tokens at "
        f"most, T = 0, seed {settings.seed}",
    }


def _sweep(
    settings: Settings,
    name: str,
    answers: AnswerFile,
    crowds: LineFile[Crowd],
    bar: StderrBar,
) -> Swept:
    """One target under all plans: prompts one by one, then in crowds."""
    with ExitStack() as stack:
        parts = gather.parts_for(settings.config, name, stack, bar.say)
        plans = parts.plans(settings.plans)
        greedy = replace(settings.scale, temperatures=(0.0,))
        cases = gather.cases_of(parts, settings.asked, greedy, settings.seed)
        tasks = {
            case.prompts[0]: plans.of(asked.task(len(case.prompts[0])))[0] for asked, case in cases
        }
        compared = sweep_plans.plans_of(settings.axes, parts.plan, plans, len(parts.exits))

        def method(by_task: Mapping[str, Plan]) -> Method:
            return sweep_plans.method(parts, {ids: by_task[task] for ids, task in tasks.items()})

        methods = {plan: method(by_task) for plan, by_task in compared.items()}
        _answer(name, cases, tasks, methods, answers, bar)
        _crowd(settings, name, [case for _, case in cases], plans, method, crowds, bar)
    traces: dict[str, list[Trace]] = {}
    for target, task, trace in settings.traces:
        if target == name and trace.temperature == 0:
            traces.setdefault(task, []).append(trace)
    draft = settings.config.draft
    assert draft is not None  # else the plan file would not fit
    return Swept(
        compared,
        [each for each in answers.held if each.target == name],
        {asked.number: len(case.prompts[0]) for asked, case in cases},
        [each for each in crowds.held if each.target == name],
        Predictor(plans.costs, traces, draft.max_debt),
    )


def _check_traces(settings: Settings) -> None:
    """Raises DataError if the traces are not those that the plan file was made from."""
    known = {
        (target, task)
        for target, task, trace in settings.traces
        if trace.exit_layers == settings.plans.draft.exit_layers and trace.temperature == 0
    }
    for name in settings.names:
        for task in settings.plans.targets[name].classes:
            if (name, task) not in known:
                raise DataError(
                    f"no trace of {name}, {task}, which the plan file has plans for; name the "
                    "folder of its calibration with --work"
                )


def _answer(
    name: str,
    cases: Sequence[tuple[Asked, Case]],
    tasks: Mapping[tuple[int, ...], str],
    methods: Mapping[str, Method],
    file: AnswerFile,
    bar: StderrBar,
) -> None:
    """Every prompt under every plan in turn, those not answered yet."""
    known = {each.question_id for each in file.held if each.target == name}
    left = [(n, *each) for n, each in enumerate(cases) if each[0].number not in known]
    if not left:
        return
    warm_up(methods, min((case for _, _, case in left), key=lambda case: len(case.prompts[0])))
    advance = bar.open(name, len(left) * len(methods))
    for number, asked, case in left:
        answers = {}
        for plan in in_turn(methods, number):
            started_s = time.perf_counter()
            written = methods[plan](case)
            answers[plan] = joined([written], time.perf_counter() - started_s)
            advance(f"prompt {asked.number} {plan}")
        ordered = {plan: answers[plan] for plan in methods}
        file.append(Answered(name, asked.number, tasks[case.prompts[0]], commit(), ordered))


def _crowd(
    settings: Settings,
    name: str,
    cases: Sequence[Case],
    plans: TargetPlans,
    method: Callable[[Mapping[str, Plan]], Method],
    file: LineFile[Crowd],
    bar: StderrBar,
) -> None:
    """So many texts at once, planned for so many and plain, in turn."""
    known = {(each.size, each.run) for each in file.held if each.target == name}
    advance = bar.open(f"{name} at once", len(settings.crowds) * settings.runs)
    off = method(dict.fromkeys(plans.classes, PLAIN.plan))
    for size in settings.crowds:
        methods = {
            PLANNED: method(sweep_plans.plans_at(plans, min(size, MAX_BATCH))),
            BASELINE: off,
        }
        chosen = [cases[number % len(cases)] for number in range(size)]
        case = replace(
            chosen[0], prompts=tuple(each.prompts[0] for each in chosen), concurrent=True
        )
        for run in range(settings.runs):
            if (size, run) not in known:
                speeds = {}
                for plan in in_turn(methods, run):
                    started_s = time.perf_counter()
                    texts = methods[plan](case).texts
                    speeds[plan] = sum(map(len, texts)) / (time.perf_counter() - started_s)
                file.append(Crowd(name, size, run, speeds[PLANNED], speeds[BASELINE]))
            advance(f"{size} texts, run {run + 1}")
