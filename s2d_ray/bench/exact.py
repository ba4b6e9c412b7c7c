"""`make exact`: on real weights, speculation changes no token. Zero tolerance, resumable.

Every prompt is written once without speculation and several times with it, half of them alone and
half among eight requests; ids and texts must be equal. Engines run in this process, without Ray.
Finished runs are kept in a file named after config, code, torch and CPU, and are not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from s2d_ray.bench.checkout import PACKAGE, commit
from s2d_ray.bench.exact_cases import (
    PROMPTS,
    Comparison,
    Outcome,
    Run,
    compare,
    runs_of,
    thin_settings,
)
from s2d_ray.bench.exact_writer import Writer, draft_of, make_writers, say
from s2d_ray.config import AppConfig, load_config
from s2d_ray.core.host import cpu_model
from s2d_ray.errors import RunError, S2DError

BATCH = 8


@dataclass(frozen=True)
class Settings:
    """What decides the texts of a run, beside code and host."""

    config: AppConfig
    seed: int
    num_prompts: int
    full: bool


def batches(runs: Sequence[Run], seed: int) -> Iterator[tuple[list[Run], list[Run]]]:
    """(runs to record, companions) in turn: lone runs, then mixed batches of eight per target.

    Companions fill a batch that would be short; what they write is not recorded again.
    """
    for run in runs:
        if not run.concurrent:
            yield [run], []
    for target in dict.fromkeys(run.target for run in runs):
        crowd = [run for run in runs if run.concurrent and run.target == target]
        shuffled = random.Random(seed).sample(crowd, len(crowd))
        for start in range(0, len(shuffled), BATCH):
            mine = shuffled[start : start + BATCH]
            spare = [shuffled[index % len(shuffled)] for index in range(BATCH - len(mine))]
            yield mine, spare


def work(
    runs: Sequence[Run],
    writers: Mapping[str, Writer],
    seed: int,
    done: dict[str, Outcome],
    out: Path,
) -> None:
    """Run what is not in `done`, add it there, and append it to `out` at once."""
    left = [run for run in runs if run.key not in done]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress, out.open("a") as lines:
        task = progress.add_task("writing", total=len(runs), completed=len(runs) - len(left))
        for mine, spare in batches(left, seed):
            outcomes = writers[mine[0].target].write([*mine, *spare])[: len(mine)]
            for outcome in outcomes:
                done[outcome.key] = outcome
                lines.write(json.dumps(asdict(outcome)) + "\n")
            lines.flush()
            progress.advance(task, len(mine))


def open_outcomes(out: Path, stamp: str) -> dict[str, Outcome]:
    """Runs finished before; the file is begun if it is not there.

    A line cut short by an interruption is left out. Raises RunError if the file is not of `stamp`.
    """
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"stamp": stamp}) + "\n")
    text = out.read_text()
    if not text.endswith("\n"):
        out.write_text(text + "\n")
    header, *lines = text.splitlines()
    if header != json.dumps({"stamp": stamp}):
        raise RunError(f"{out}: holds outcomes of other settings, code or host; name another --out")
    done: dict[str, Outcome] = {}
    for line in lines:
        try:
            outcome = Outcome.from_fields(json.loads(line))
        except (ValueError, TypeError):
            continue
        done[outcome.key] = outcome
    return done


def stamp(settings: Settings) -> str:
    """Names the outcomes that may be reused: same config, seed, code, torch, CPU and threads."""
    digest = hashlib.sha256()
    host = [torch.__version__, cpu_model(), torch.get_num_threads(), settings.seed]
    config = settings.config.model_dump(mode="json", exclude={"http", "plan"})
    digest.update(json.dumps([config, host]).encode())
    for package in ("core", "models", "engine", "bench"):
        for path in sorted((PACKAGE / package).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def show_card(settings: Settings, exact: Mapping[str, bool]) -> None:
    """Host and code, before any result."""
    print(f"cpu        {cpu_model()}, {torch.get_num_threads()} threads")
    print(f"torch      {torch.__version__}")
    print(f"commit     {commit()}, outcomes {stamp(settings)}")
    for name, config in settings.config.targets.items():
        claim = "bitwise exact" if exact[name] else "NOT bitwise exact on this host"
        print(f"target     {name}: {config.precision}, {claim}")
    print(f"draft      {draft_of(settings.config).precision}", flush=True)


def show_table(comparisons: Sequence[Comparison]) -> None:
    """One row per target and temperature."""
    table = Table("target", "temperature", "cases", "identical", "drafted", "accepted", "misses")
    for name, temperature in dict.fromkeys((c.run.target, c.run.temperature) for c in comparisons):
        group = [c for c in comparisons if (c.run.target, c.run.temperature) == (name, temperature)]
        numbers = (
            len(group),
            sum(c.identical for c in group),
            sum(c.forced.drafted for c in group),
            sum(c.forced.accepted for c in group),
            sum(c.forced.misses for c in group),
        )
        table.add_row(name, str(temperature), *map(str, numbers))
    Console().print(table)
    for c in comparisons:
        if not c.identical:
            print(f"DIFFERS    {c.run.key}: {c.plain.text!r} became {c.forced.text!r}")
        if not c.was_drafted:
            print(f"UNDRAFTED  {c.run.key}: no proposal was answered in {c.forced.rounds} rounds")


def verdict(comparisons: Sequence[Comparison], seconds: float, whole: bool) -> dict[str, object]:
    """The last line: counts over all cases. whole: every setting was met often enough."""
    return {
        "cases": len(comparisons),
        "identical": sum(c.identical for c in comparisons),
        "undrafted": sum(not c.was_drafted for c in comparisons),
        "drafted": sum(c.forced.drafted for c in comparisons),
        "accepted": sum(c.forced.accepted for c in comparisons),
        "seconds": round(seconds, 1),
        "whole": whole,
    }


def run_all(settings: Settings, out: Path | None) -> int:
    """Load, run, compare, print. -> exit code."""
    runs = [
        run
        for name in settings.config.targets
        for run in runs_of(name, settings.num_prompts, settings.full)
    ]
    thin = thin_settings(runs)
    if settings.num_prompts == len(PROMPTS) and thin:
        raise RunError(f"these settings occur fewer than 20 times: {', '.join(thin)}")
    writers, exact = make_writers(settings.config, settings.seed)
    show_card(settings, exact)
    name = stamp(settings)
    out = out or Path("results") / f"exact-{name}.jsonl"
    done = open_outcomes(out, name)
    work(runs, writers, settings.seed, done, out)
    comparisons = compare(runs, done)
    show_table(comparisons)
    result = verdict(comparisons, sum(done[run.key].seconds for run in runs), not thin)
    print(json.dumps(result))
    failed = result["identical"] != result["cases"] or result["undrafted"]
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run. -> exit code: 0 identical, 1 not, 2 cannot run."""
    parser = argparse.ArgumentParser(prog="s2d_ray.bench.exact", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("deployments/quickstart.yaml"))
    parser.add_argument("--full", action="store_true", help="every plan for every prompt")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="only the first N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file of outcomes; default below results/")
    chosen = parser.parse_args(arguments)
    if not 1 <= chosen.prompts <= len(PROMPTS):
        parser.error(f"--prompts: must be 1 to {len(PROMPTS)}")
    try:
        config = load_config(chosen.config)
        return run_all(Settings(config, chosen.seed, chosen.prompts, chosen.full), chosen.out)
    except S2DError as error:
        say(f"exact: {error.message}")
        return 2
    except KeyboardInterrupt:
        say("exact: interrupted; the same command goes on from here")
        return 130


if __name__ == "__main__":
    sys.exit(main())
