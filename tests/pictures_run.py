"""One real answer of the quickstart, guess by guess, and what its steps cost.

Engines of the product in one process, without Ray: the quickstart's first target and its draft.
"""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any
from unittest.mock import patch

from s2d_ray.bench.card import host_card
from s2d_ray.bench.costs import provenance
from s2d_ray.bench.rig import COST_CACHE_TOKENS, Parts
from s2d_ray.bench.texts import end_of, write_together
from s2d_ray.cli import default_config
from s2d_ray.config import load_config
from s2d_ray.core.cost_model import CostModel
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.cascade_step import Level
from s2d_ray.engine.draft_rows import Row
from s2d_ray.engine.messages import (
    ChatPrompt,
    Delta,
    GenerateRequest,
    Mode,
    Started,
    TokenTrace,
)
from s2d_ray.models import draft_files
from s2d_ray.models.loading import choose_device
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork
from s2d_ray.models.stopwatch import CONTEXT, TargetCalls, draft_steps, time_in_turn


@dataclass(frozen=True)
class Taken:
    """A guess of the draft. layers: at which it left. is_kept: not below the stop threshold."""

    token: int
    layers: int
    confidence: float
    is_kept: bool


QUESTION = "What is 17 times 6? Show the steps."
NUM_TOKENS = 64
SEED = 1
REPEATS = 9
FORWARDS = [(1, tokens) for tokens in (1, 2, 3, 5, 8, 9)]
PROMPT = 32


@contextmanager
def levels_taken() -> Iterator[dict[int, list[Taken]]]:
    """What a draft of this process guesses meanwhile, by the length of the text in its calls."""
    taken: dict[int, list[Taken]] = defaultdict(list)
    take = Row.take

    def listen(row: Row, level: Level, exit_layer: int, eos: Collection[int]) -> bool:
        is_kept = take(row, level, exit_layer, eos)
        best = level.guesses[0]
        taken[row.request.at_length].append(Taken(best.token, exit_layer, best.confidence, is_kept))
        return is_kept

    with patch.object(Row, "take", listen):
        yield taken


def record() -> dict[str, Any]:
    """The answer, its rounds with every guess, and costs, as plain values.

    Greedy; every round asks the draft, so that nothing depends on time but the costs.
    """
    config = load_config(default_config())
    with ExitStack() as stack:
        parts = Parts(config, stack, lambda line: print(line, file=sys.stderr))
        taken = stack.enter_context(levels_taken())
        seat = parts.first
        seat.client.connect(parts.draft.submit, 1)
        sampling = SamplingParams(seed=SEED, temperature=0.0, max_tokens=NUM_TOKENS)
        chat = ChatPrompt(({"role": "user", "content": QUESTION},))
        request = GenerateRequest("picture", chat, sampling, parts.plan, Mode.FORCE, trace=True)
        [events] = write_together(seat.target, [request])
        end_of(events, "the answer")
        started = next(event for event in events if isinstance(event, Started))
        traces = [each for event in events if isinstance(event, Delta) for each in event.tokens]
        rounds = rounds_of(traces, started.prompt_tokens, taken, seat.target.text.tokenizer)
        network = draft_files.load_network(
            parts.draft_folder,
            parts.draft_config.precision,
            choose_device(parts.draft_config.device),
            COST_CACHE_TOKENS,
        )
        costs = costs_of(seat.target.model, network)
    return {
        "card": host_card(config),
        "seed": SEED,
        "question": QUESTION,
        "plan": asdict(parts.plan),
        "exits": list(parts.exits),
        "tokens": [{"text": each.text, "drafted_by": each.drafted_by} for each in traces],
        "rounds": rounds,
        "costs": costs.to_json(),
    }


def costs_of(model: RaggedModel, network: DraftNetwork) -> CostModel:
    """What rounds of one text alone are made of; the draft is in this process, so no calls."""
    with ExitStack() as stack:
        target = TargetCalls(model, stack, CONTEXT)
        calls = {("forward", key): call for key, call in target.forwards(FORWARDS).items()}
        calls |= {("prefill", key): call for key, call in target.prefills([PROMPT]).items()}
        steps = draft_steps(network, model.vocab_size, stack, CONTEXT, [1])
        calls |= {("draft", key): call for key, call in steps.items()}
        found = time_in_turn(calls, REPEATS, random.Random(SEED))
    draft_s, forward_s, prefill_s = (
        {key: seconds for (kind, key), seconds in found.items() if kind == wanted}
        for wanted in ("draft", "forward", "prefill")
    )
    return CostModel(draft_s, forward_s, prefill_s, 0.0, provenance())


def rounds_of(
    traces: Sequence[TokenTrace],
    prompt_tokens: int,
    taken: Mapping[int, Sequence[Taken]],
    tokenizer: Any,
) -> list[dict[str, Any]]:
    """Each round's guesses in order, and how many tokens it wrote.

    Of a chain the first guesses are those that were accepted; what is dropped comes last.
    """
    found = []
    length = prompt_tokens
    for number, group in groupby(traces, key=lambda trace: trace.round):
        written = list(group)
        accepted = sum(each.drafted_by is not None for each in written)
        if number:  # 0 is the prompt's own step
            guesses = [
                {
                    "text": tokenizer.decode([each.token]),
                    "layers": each.layers,
                    "confidence": round(each.confidence, 3),
                    "fate": _fate(depth < accepted, each.is_kept),
                }
                for depth, each in enumerate(taken.get(length, ()))
            ]
            found.append({"guesses": guesses, "written": len(written)})
        length += len(written)
    return found


def _fate(is_accepted: bool, is_kept: bool) -> str:
    return "accepted" if is_accepted else "refused" if is_kept else "dropped"
