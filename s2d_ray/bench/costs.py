"""Costs of bare calls: target forwards, draft steps, and the stock model's own forward."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import torch

from s2d_ray.bench.checkout import commit
from s2d_ray.bench.ideal import Costs, Curves
from s2d_ray.config import Precision
from s2d_ray.core.cost_model import CostModel, Provenance
from s2d_ray.core.host import cpu_model
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork
from s2d_ray.models.stopwatch import (
    CONTEXT,
    Call,
    Calls,
    Shape,
    TargetCalls,
    draft_heads,
    draft_steps,
    ids_of,
    time_in_turn,
)

FORWARDS = (
    *((1, rows) for rows in (1, 2, 4, 6, 8, 12, 16)),
    *((2, 1), (4, 1), (8, 1), (2, 4), (4, 4), (8, 4)),
)
"""(sequences, tokens of each) of the curves."""

TREES = {"spine 2, 2 leaves": (0, 0, 1, 1), "spine 4, 4 leaves": (0, 0, 1, 1, 3, 3, 5, 5)}
"""Proposals of one sequence behind its last token: the parents of their rows; see `Segment`."""

PREFILLS = (32, 64, 128)
DRAFT_ROWS = (1, 2, 4, 8)
"""Sequences of one row each, as the draft engine steps them."""


def provenance() -> Provenance:
    """This host and this code, today."""
    cpu = f"{cpu_model()}, {torch.get_num_threads()} threads"
    host = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return Provenance(host, commit(), datetime.now(UTC).date().isoformat())


def measure_costs(
    model: RaggedModel, network: DraftNetwork, hop_s: float, repeats: int, seed: int
) -> CostModel:
    """What a target and a draft cost here. Nothing else may use the two meanwhile."""
    with ExitStack() as stack:
        target = TargetCalls(model, stack, CONTEXT)
        calls = {("forward", shape): call for shape, call in target.forwards(FORWARDS).items()}
        calls |= {("prefill", n): call for n, call in target.prefills(PREFILLS).items()}
        steps = draft_steps(network, model.vocab_size, stack, CONTEXT, DRAFT_ROWS)
        calls |= {("draft", shape): call for shape, call in steps.items()}
        heads = draft_heads(network, DRAFT_ROWS)
        calls |= {("head", rows): call for rows, call in heads.items()}
        found = time_in_turn(calls, repeats, random.Random(seed))
    return _model(found, "draft", hop_s)


class CostMeter:
    """Measures what it was given; nothing else may use the models meanwhile.

    networks: the draft by precision, the config's own first. The order of calls is `seed`'s.
    """

    def __init__(
        self,
        model: RaggedModel,
        networks: Mapping[Precision, DraftNetwork],
        stock: Any,
        seed: int,
    ) -> None:
        self._model = model
        self._networks = networks
        self._own = next(iter(networks))
        self._stock = stock
        self._order = random.Random(seed)

    def curves(self, repeats: int) -> Curves:
        """Forwards by shape, trees among them, and draft steps in every precision."""
        precisions = tuple(self._networks)
        found = self._time(CONTEXT, FORWARDS, PREFILLS, DRAFT_ROWS, precisions, repeats, trees=True)
        drafts_s = {precision: _part(found, precision) for precision in precisions}
        return Curves(self._costs(found), _part(found, "tree"), drafts_s)

    def around(self, context: int, max_nodes: int, repeats: int) -> Costs:
        """What texts of about `context` tokens need, alone, with at most `max_nodes` guesses."""
        forwards = [(1, tokens) for tokens in sorted({1, 2, 1 + max(1, max_nodes)})]
        return self._costs(self._time(context, forwards, PREFILLS[:2], (1,), (self._own,), repeats))

    def _time(
        self,
        context: int,
        forwards: Sequence[Shape],
        prefills: Sequence[int],
        draft_rows: Sequence[int],
        precisions: Sequence[Precision],
        repeats: int,
        *,
        trees: bool = False,
    ) -> dict[Any, float]:
        with ExitStack() as stack:
            vocab_size = self._model.vocab_size
            parts: dict[str, Calls] = {  # drafts first: theirs is the smaller cache
                precision: draft_steps(
                    self._networks[precision], vocab_size, stack, context, draft_rows
                )
                for precision in precisions
            }
            target = TargetCalls(self._model, stack, context)
            parts["forward"] = target.forwards(forwards)
            parts["tree"] = target.trees(TREES) if trees else {}
            parts["prefill"] = target.prefills(prefills)
            parts["stock"] = {1: self._stock_call(context)}
            calls = {(kind, key): call for kind, of in parts.items() for key, call in of.items()}
            return time_in_turn(calls, repeats, self._order)

    def _costs(self, found: Mapping[Any, float]) -> Costs:
        """The part of what was measured that is in the config's own precision.

        No hop: what compares itself with these costs is in one process.
        """
        return Costs(found["stock", 1], _model(found, self._own, hop_s=0.0))

    def _stock_call(self, context: int) -> Call:
        """One row behind a cache of `context` tokens, which is cut back after each call."""
        stock, vocab_size = self._stock, self._model.vocab_size
        with torch.inference_mode():
            ids = torch.tensor([ids_of(vocab_size, context)])
            cache = stock(ids, use_cache=True).past_key_values
        row = torch.tensor([ids_of(vocab_size, 1)])

        @torch.inference_mode()
        def step() -> None:
            stock(row, past_key_values=cache, use_cache=True)
            cache.crop(-1)

        return step


def _model(found: Mapping[Any, float], draft: str, hop_s: float) -> CostModel:
    forwards, prefills = _part(found, "forward"), _part(found, "prefill")
    heads = _part(found, "head")
    return CostModel(_part(found, draft), forwards, prefills, hop_s, provenance(), heads)


def _part(found: Mapping[Any, float], kind: str) -> dict[Any, float]:
    return {key: seconds for (each, key), seconds in found.items() if each == kind}
