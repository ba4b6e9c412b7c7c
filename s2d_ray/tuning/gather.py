"""Gathering what calibration learns from: traces of each target, and what its work costs here."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from s2d_ray.bench.alternate import Advance, Case
from s2d_ray.bench.costs import measure_costs
from s2d_ray.bench.rig import COST_CACHE_TOKENS, Parts
from s2d_ray.config import AppConfig
from s2d_ray.core.cost_model import CostModel
from s2d_ray.engine.draft_client import Send
from s2d_ray.engine.messages import Mode
from s2d_ray.engine.protocol import ProposeCall
from s2d_ray.errors import DataError
from s2d_ray.models import draft_files
from s2d_ray.models.loading import choose_device
from s2d_ray.models.sorted_draft import DraftNetwork
from s2d_ray.tuning.prompts import Asked
from s2d_ray.tuning.record import Recorder
from s2d_ray.tuning.trace_file import Traced, TraceFile

HOP_CALLS = 30
HOP_TIMEOUT_S = 60.0


def parts_for(
    config: AppConfig, target: str, stack: ExitStack, say: Callable[[str], None]
) -> Parts:
    """Engines for one target of the config alone."""
    alone = config.model_copy(update={"targets": {target: config.targets[target]}})
    return Parts(alone, stack, say)


def network_of(parts: Parts) -> DraftNetwork:
    """The config's draft, in its precision, with a cache for one text of it and for costs."""
    draft = parts.draft_config
    tokens = max(COST_CACHE_TOKENS, parts.target_config.max_context)
    device = choose_device(draft.device)
    return draft_files.load_network(parts.draft_folder, draft.precision, device, tokens)


@dataclass(frozen=True)
class Scale:
    """How much is gathered. limit: prompts, None for all. repeats: of each timed call."""

    max_new_tokens: int
    temperatures: tuple[float, ...]
    limit: int | None
    repeats: int


QUICK = Scale(max_new_tokens=32, temperatures=(0.0,), limit=6, repeats=3)
WHOLE = Scale(max_new_tokens=128, temperatures=(0.0, 0.7), limit=None, repeats=9)


def cases_of(
    parts: Parts, asked: Sequence[Asked], scale: Scale, seed: int
) -> list[tuple[Asked, Case]]:
    """What is written: each prompt at each temperature. Raises DataError if one is too long."""
    text, longest = parts.first.target.text, parts.first.target.batch.limits.max_context
    found = []
    for each in asked[: scale.limit]:
        ids = tuple(text.encode_chat([{"role": "user", "content": each.text}]))
        room = longest - len(ids)
        if room < 2:
            raise DataError(f"prompt {each.number} does not fit in max_context {longest}")
        found += [
            (
                each,
                Case(
                    f"prompt {each.number}",
                    (ids,),
                    min(scale.max_new_tokens, room),
                    seed=1_000 * seed + each.number,
                    temperature=temperature,
                    end_ids=tuple(sorted(text.eos_token_ids)),
                ),
            )
            for temperature in scale.temperatures
        ]
    return found


def gather(
    parts: Parts,
    target: str,
    cases: Sequence[tuple[Asked, Case]],
    network: DraftNetwork,
    file: TraceFile,
    advance: Advance,
) -> None:
    """Let a target write what it has not written yet, and keep what the draft guesses of it."""
    recorder = Recorder(network, draft_files.read_card(parts.draft_folder).eos_token_ids)
    plain = parts.first.ours(parts.plan, Mode.OFF)
    known = {each.key for each in file.held}
    for asked, case in cases:
        [prompt] = case.prompts
        if (target, asked.number, case.temperature) not in known:
            [output] = plain(case).texts
            trace = recorder.record(
                prompt,
                output,
                max_tokens=case.num_tokens,
                temperature=case.temperature,
                seed=case.sampling(0).seed,
                end_ids=case.end_ids,
            )
            file.append(Traced(target, asked.number, asked.task(len(prompt)), trace))
        advance(f"prompt {asked.number}, T = {case.temperature:g}")


def costs_of(
    parts: Parts, network: DraftNetwork, hop_s: float, path: Path, scale: Scale, seed: int
) -> CostModel:
    """What a target's work costs here; measured once for the run, in `path`. Raises DataError."""
    if path.exists():
        try:
            return CostModel.from_json(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise DataError(f"{path}: {error}; remove it") from None
    costs = measure_costs(parts.first.target.model, network, hop_s, scale.repeats, seed)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(costs.to_json(), indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return costs


def measure_hop(send: Send) -> float:
    """Median seconds of a call without rows, and of its answer: what is not the draft's work."""
    seconds = []
    for number in range(HOP_CALLS):
        started_s = time.perf_counter()
        send(ProposeCall("calibrate", number + 1, 1e3, ())).result(timeout=HOP_TIMEOUT_S)
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds)
