"""What one forward costs, by rows, sequences, trees and draft depth, against the stock model.

All cases take turns within one process and medians are compared, so that a busy machine slows all
of them alike: trust the ratios to the stock model's one row more than the milliseconds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, DynamicCache

from s2d_ray.bench.card import commit, cpu_model
from s2d_ray.bench.exact_writer import draft_of, say
from s2d_ray.config import AppConfig, Precision, load_config
from s2d_ray.errors import S2DError
from s2d_ray.models import draft_files, sources
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import BLOCK, KVPool, Run
from s2d_ray.models.loading import load_target_decoder
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork

CONTEXT = 200
"""Tokens before the rows of every case."""

ROWS = (1, 2, 4, 6, 8, 12, 16)
SEQUENCES = ((2, 1), (4, 1), (8, 1), (2, 4), (4, 4), (8, 4))
"""(sequences, rows of each)."""

TREES = {"spine 4, 4 leaves": (0, 0, 1, 1, 3, 3, 5, 5), "spine 2, 2 leaves": (0, 0, 1, 1)}
"""The parents of a tree's rows; see `models.attention.Segment`."""

DRAFT_ROWS = (1, 4, 8)
"""Sequences of one row each, as the draft engine steps them."""

STOCK = "stock"
CPU = torch.device("cpu")
_MAX_SEQUENCES = 8
_CACHE_TOKENS = _MAX_SEQUENCES * -(-(CONTEXT + max(ROWS)) // BLOCK) * BLOCK

Act = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One way to forward. model: "stock", "float32", "draft int8", …; shape: its rows, in words.

    ms: median; ratio: to the stock model's one row in the same run.
    """

    model: str
    shape: str
    ms: float
    ratio: float


@torch.inference_mode()
def stock_step(folder: Path) -> Act:
    """One row of the unpatched float32 model behind CONTEXT tokens; the cache is cut back."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    cache: Any = DynamicCache(config=model.config)
    model(input_ids=torch.tensor([_ids(CONTEXT)]), past_key_values=cache, logits_to_keep=1)
    row = torch.tensor([_ids(1)])

    @torch.inference_mode()
    def step() -> None:
        model(input_ids=row, past_key_values=cache)
        cache.crop(-1)

    return step


def target_steps(model: RaggedModel) -> Iterator[tuple[str, Act]]:
    """Every shape of a target's forward, all of its rows scored, behind CONTEXT tokens."""
    runs = _filled_runs(model.pool, lambda ids, segment: model.forward(ids, [segment], []))

    def step(segments: Sequence[Segment]) -> Act:
        num_rows = sum(segment.num_rows for segment in segments)
        return lambda: model.forward(_ids(num_rows), segments, range(num_rows))

    for num_rows in ROWS:
        yield _shape(1, num_rows), step([Segment(runs[0], CONTEXT, num_rows)])
    for num_sequences, num_rows in SEQUENCES:
        segments = [Segment(run, CONTEXT, num_rows) for run in runs[:num_sequences]]
        yield _shape(num_sequences, num_rows), step(segments)
    for name, parents in TREES.items():
        yield name, step([Segment(runs[0], CONTEXT, len(parents) + 1, parents)])


def draft_steps(network: DraftNetwork) -> Iterator[tuple[str, Act]]:
    """One token by each exit, for several sequences at once, behind CONTEXT tokens."""
    groups = range(len(network.exit_layers))

    def fill(ids: Sequence[int], segment: Segment) -> None:
        for group in groups:
            network.run_group(group, ids, [segment])

    runs = _filled_runs(network.pool, fill)

    def step(submodel: int, segments: Sequence[Segment]) -> None:
        for group in groups[: submodel + 1]:
            hidden = network.run_group(group, _ids(len(segments)), segments)
        network.exit_logits(submodel, hidden)

    for submodel, depth in enumerate(network.exit_layers):
        for num_rows in DRAFT_ROWS:
            segments = [Segment(run, CONTEXT, 1) for run in runs[:num_rows]]
            shape = f"{depth} layers, {_shape(num_rows, 1)}"
            yield shape, lambda s=submodel, rows=segments: step(s, rows)  # type: ignore[misc]


def measure(
    target: Path, draft: Path, precisions: Sequence[Precision], rounds: int, seed: int
) -> list[Case]:
    """Every case, the stock model first, each run once a round in an order of the round's own.

    target, draft: folders of their checkpoints. Raises ModelError if one cannot be loaded.
    """
    acts: dict[tuple[str, str], Act] = {(STOCK, _shape(1, 1)): stock_step(target)}
    for precision in precisions:
        model = RaggedModel(load_target_decoder(target, precision, CPU), _CACHE_TOKENS)
        acts |= {(precision, shape): act for shape, act in target_steps(model)}
        network = draft_files.load_network(draft, precision, CPU, _CACHE_TOKENS)
        acts |= {(f"draft {precision}", shape): act for shape, act in draft_steps(network)}
    medians = _alternate(acts, rounds, random.Random(seed))
    stock_ms = medians[STOCK, _shape(1, 1)]
    return [Case(*name, ms, ms / stock_ms) for name, ms in medians.items()]


def _alternate(
    acts: dict[tuple[str, str], Act], rounds: int, order: random.Random
) -> dict[tuple[str, str], float]:
    """Median milliseconds of each act. One round before them warms up and is not counted."""
    times: dict[tuple[str, str], list[float]] = {name: [] for name in acts}
    for number in range(rounds + 1):
        for name in order.sample(list(acts), len(acts)):
            started_s = time.perf_counter()
            acts[name]()
            if number:
                times[name].append(1_000 * (time.perf_counter() - started_s))
    return {name: statistics.median(taken) for name, taken in times.items()}


def _filled_runs(pool: KVPool, fill: Callable[[list[int], Segment], object]) -> list[Run]:
    runs = []
    for _ in range(_MAX_SEQUENCES):
        run = pool.allocator.reserve(CONTEXT + max(ROWS))
        assert run is not None, "the pool is made for these sequences"
        fill(_ids(CONTEXT), Segment(run, 0, CONTEXT))
        runs.append(run)
    return runs


def _ids(number: int) -> list[int]:
    return [(37 * index + 11) % 61 for index in range(number)]


def _shape(num_sequences: int, num_rows: int) -> str:
    return f"{num_sequences} × {num_rows}"


def show_table(cases: Sequence[Case]) -> None:
    """One line per case."""
    table = Table("model", "sequences × rows", "ms", "of stock's one row")
    for case in cases:
        table.add_row(case.model, case.shape, f"{case.ms:.1f}", f"{case.ratio:.2f}")
    Console().print(table)


def run(config: AppConfig, rounds: int, seed: int) -> list[Case]:
    """Measure the config's first target model and its draft, in float32 and int8."""
    target = sources.resolve(next(iter(config.targets.values())).model, report=say)
    draft = draft_files.ensure_draft(draft_of(config), report=say)
    return measure(target, draft, ("float32", "int8"), rounds, seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print a table and one line of JSON. -> exit code."""
    parser = argparse.ArgumentParser(prog="s2d_ray.bench.forward", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("deployments/quickstart.yaml"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="decides the order of the cases")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    try:
        cases = run(load_config(chosen.config), chosen.rounds, chosen.seed)
    except S2DError as error:
        say(f"forward: {error.message}")
        return 2
    print(f"{cpu_model()}, {chosen.threads} threads, torch {torch.__version__}, {commit()}")
    show_table(cases)
    print(json.dumps([asdict(case) for case in cases]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
