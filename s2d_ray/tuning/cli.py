"""`s2d calibrate` and `s2d sweep`: parse, run, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from s2d_ray.config import AppConfig
    from s2d_ray.tuning.prompts import Asked

Config = Annotated[Path | None, typer.Argument(help="A config file; by default the quickstart's.")]
Questions = Annotated[
    Path | None,
    typer.Option(
        help="JSONL in Spec-Bench's format: odd numbers are calibrated on, even ones measured "
        "on; by default a few built-in prompts of each class of task."
    ),
]
Target = Annotated[
    list[str] | None, typer.Option(help="A target of the config, repeatable; by default all.")
]
Work = Annotated[
    Path,
    typer.Option(help="Folder of traces, costs and reports; a killed run goes on in it."),
]
WORK = Path("results/calibrate")


def calibrate(
    config: Config = None,
    questions: Questions = None,
    target: Target = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few short greedy texts and few plans: minutes.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The plan file; by default plans.json in the folder.")
    ] = None,
    work: Work = WORK,
    hop_ms: Annotated[
        float | None,
        typer.Option(
            min=0, help="What a call of the draft takes; by default a draft actor is asked."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws, where T is above 0.")] = 1,
) -> None:
    """Measure what work costs here and how likely guesses are accepted; write the best plans.

    Write `plans: FILE` into the config to use them. The last line of the output is one JSON object;
    docs/plans.md explains it.
    """
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config
    from s2d_ray.serve.lone_draft import own_environment

    parsed = load_config(config or default_config())
    asked = _asked(questions, half=0)
    try:
        with own_environment() as temp_dir:
            from s2d_ray.tuning import calibrate as command
            from s2d_ray.tuning import gather, search

            hop_s = hop_seconds(hop_ms, parsed, work, temp_dir)
            status = command.run(
                command.Settings(
                    parsed,
                    asked,
                    work,
                    out or work / command.PLANS,
                    gather.QUICK if quick else gather.WHOLE,
                    search.QUICK if quick else search.WHOLE,
                    hop_s,
                    tuple(target or ()),
                    seed,
                )
            )
    except KeyboardInterrupt:
        typer.echo("s2d: interrupted; the same command goes on", err=True)
        status = 130
    raise typer.Exit(status)


def _asked(questions: Path | None, half: int) -> list[Asked]:
    """The prompts of one half."""
    from s2d_ray.bench.questions import choose, read_questions
    from s2d_ray.tuning.prompts import built_in, of_questions

    if questions is None:
        return built_in(half)
    return of_questions(choose(read_questions(questions), None, first_turns=True), half)


def hop_seconds(hop_ms: float | None, config: AppConfig, work: Path, temp_dir: Path) -> float:
    """Seconds of a call of the draft: as given, as measured before, or of an actor in a Ray of its
    own; none without a draft."""
    path = work / "hop.json"
    if hop_ms is not None or config.draft is None:
        return (hop_ms or 0.0) / 1e3
    if path.exists():
        return float(json.loads(path.read_text(encoding="utf-8")))
    from s2d_ray.models.loading import choose_device
    from s2d_ray.serve.lone_draft import lone_draft
    from s2d_ray.tuning.gather import measure_hop

    typer.echo("asking a draft actor what a call takes", err=True)
    num_gpus = int(choose_device(config.draft.device).type == "cuda")
    with lone_draft(config.draft, num_gpus, temp_dir) as send:
        hop_s = measure_hop(send)
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{hop_s}\n", encoding="utf-8")
    return hop_s


def sweep(
    config: Config = None,
    questions: Questions = None,
    target: Target = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few prompts, short texts, few plans: minutes.")
    ] = False,
    plans: Annotated[
        Path | None, typer.Option(help="The plan file; by default plans.json in the folder.")
    ] = None,
    work: Work = WORK,
    out: Annotated[
        Path, typer.Option(help="Folder of answers and report; a killed run goes on in it.")
    ] = Path("results/sweep"),
    seed: Annotated[int, typer.Option(min=0, help="Of the order of things.")] = 1,
) -> None:
    """Run thresholds, lengths and the plan file's plans for real, beside what was predicted.

    Prompts are others than those of `s2d calibrate`, which must have run before. The last line of
    the output is one JSON object; docs/plans.md explains it.
    """
    from s2d_ray.cli import default_config
    from s2d_ray.config import load_config
    from s2d_ray.errors import ConfigError
    from s2d_ray.plan_file import load_plan_file
    from s2d_ray.serve.lone_draft import own_environment

    parsed = load_config(config or default_config())
    asked = _asked(questions, half=1)
    path = plans or work / "plans.json"
    if not path.exists():
        raise ConfigError(f"{path}: there is no plan file; run `s2d calibrate` first")
    loaded = load_plan_file(path)
    try:
        with own_environment():
            from s2d_ray.tuning import gather, sweep_plans
            from s2d_ray.tuning.sweep import Settings, run
            from s2d_ray.tuning.trace_file import read_traces

            status = run(
                Settings(
                    parsed,
                    loaded,
                    read_traces(work),
                    asked,
                    out,
                    gather.QUICK if quick else gather.WHOLE,
                    sweep_plans.QUICK if quick else sweep_plans.WHOLE,
                    crowds=(1, 4) if quick else (1, 2, 4, 8, 16, 32),
                    runs=1 if quick else 3,
                    targets=tuple(target or ()),
                    seed=seed,
                )
            )
    except KeyboardInterrupt:
        typer.echo("s2d: interrupted; the same command goes on", err=True)
        status = 130
    raise typer.Exit(status)
