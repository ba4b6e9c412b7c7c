"""One real answer of the quickstart, guess by guess, and what its steps cost.

Engines of the product in one process, without Ray: the quickstart's first target and its draft.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import asdict
from itertools import groupby
from typing import Any

from s2d_ray.bench.card import host_card
from s2d_ray.bench.costs import measure_costs
from s2d_ray.bench.rig import COST_CACHE_TOKENS, Parts
from s2d_ray.bench.texts import end_of, write_together
from s2d_ray.cli import default_config
from s2d_ray.config import load_config
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.messages import (
    ChatPrompt,
    Delta,
    GenerateRequest,
    Mode,
    Started,
    TokenTrace,
)
from s2d_ray.engine.protocol import ProposeCall, ProposeReply, RowReply, RowStatus
from s2d_ray.models import draft_files
from s2d_ray.models.loading import choose_device

QUESTION = "What is 17 times 6? Show the steps."
NUM_TOKENS = 64
SEED = 1
REPEATS = 9


class Listener:
    """Hands calls on to a draft, and keeps its proposals by the length of the text."""

    def __init__(self, draft: DraftLoop) -> None:
        self._draft = draft
        self.proposals: dict[int, RowReply] = {}

    def send(self, call: ProposeCall) -> Future[ProposeReply]:
        """See `draft_client.Send`."""
        answer = self._draft.submit(call)
        answer.add_done_callback(self._keep)
        return answer

    def _keep(self, answer: Future[ProposeReply]) -> None:
        rows = [row for row in answer.result().rows if row.status is RowStatus.OK]
        self.proposals |= {row.at_length: row for row in rows}


def record() -> dict[str, Any]:
    """The answer, its rounds with every guess, and costs, as plain values.

    Greedy; every round asks the draft, so that nothing depends on time but the costs.
    """
    config = load_config(default_config())
    with ExitStack() as stack:
        parts = Parts(config, stack, lambda line: print(line, file=sys.stderr))
        seat, draft = parts.first, parts.draft
        listener = Listener(draft)
        seat.client.connect(listener.send, 1)
        sampling = SamplingParams(seed=SEED, temperature=0.0, max_tokens=NUM_TOKENS)
        chat = ChatPrompt(({"role": "user", "content": QUESTION},))
        request = GenerateRequest("picture", chat, sampling, parts.plan, Mode.FORCE, trace=True)
        [events] = write_together(seat.target, [request])
        end_of(events, "the answer")
        started = next(event for event in events if isinstance(event, Started))
        traces = [each for event in events if isinstance(event, Delta) for each in event.tokens]
        rounds = rounds_of(traces, started.prompt_tokens, listener, seat.target.text.tokenizer)
        network = draft_files.load_network(
            parts.draft_folder,
            parts.draft_config.precision,
            choose_device(parts.draft_config.device),
            COST_CACHE_TOKENS,
        )
        costs = measure_costs(seat.target.model, network, 0.0, REPEATS, SEED)
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


def rounds_of(
    traces: Sequence[TokenTrace], prompt_tokens: int, listener: Listener, tokenizer: Any
) -> list[dict[str, Any]]:
    """Each round's guesses, accepted ones first, and the tokens it wrote."""
    found = []
    length = prompt_tokens
    for number, group in groupby(traces, key=lambda trace: trace.round):
        written = list(group)
        row = listener.proposals.get(length) if number else None
        accepted = sum(each.drafted_by is not None for each in written)
        if number:
            found.append(
                {"guesses": list(_guesses(row, accepted, tokenizer)), "written": len(written)}
            )
        length += len(written)
    return found


def _guesses(row: RowReply | None, accepted: int, tokenizer: Any) -> Iterable[dict[str, Any]]:
    """Of a chain: its first ones are those that were accepted."""
    if row is None:
        return
    guesses = zip(row.tokens, row.drafted_by, row.confidences, strict=True)
    for depth, (token, layers, confidence) in enumerate(guesses):
        yield {
            "text": tokenizer.decode([token]),
            "layers": layers,
            "confidence": round(confidence, 3),
            "accepted": depth < accepted,
        }
