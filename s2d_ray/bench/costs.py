"""Costs of bare calls: target forwards, draft steps, and the stock model's own forward."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, TypeVar

import torch

from s2d_ray.bench.ideal import Costs, Curves
from s2d_ray.config import Precision
from s2d_ray.errors import ModelError
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Run, RunAllocator
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork

CONTEXT = 200
"""Tokens in the cache before the rows of the curves."""

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

Call = Callable[[], object]
Calls = dict[Any, Call]
Key = TypeVar("Key")


def time_in_turn(calls: Mapping[Key, Call], rounds: int, order: random.Random) -> dict[Key, float]:
    """Median seconds of each call, after one untimed round.

    The calls take turns, in an order drawn anew for each round, so that none always follows the
    same one and a busy machine slows all alike.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for key in order.sample(list(calls), len(calls)):
            started_s = time.perf_counter()
            calls[key]()
            seconds[key].append(time.perf_counter() - started_s)
    return {key: median(values) for key, values in seconds.items()}


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
        longest = max(tokens for _, tokens in FORWARDS)
        with ExitStack() as stack:
            runs = self._target_runs(stack, 8, CONTEXT, CONTEXT + longest)
            calls = self._target_calls(CONTEXT, runs, FORWARDS, PREFILLS)
            for name, parents in TREES.items():
                segment = Segment(runs[0], CONTEXT, 1 + len(parents), parents)
                calls["tree", name] = self._forward_call([segment])
            for precision in self._networks:
                calls |= self._draft_calls(stack, precision, CONTEXT, DRAFT_ROWS)
            found = time_in_turn(calls, repeats, self._order)
        drafts_s = {precision: _part(found, precision) for precision in self._networks}
        return Curves(self._costs(found), _part(found, "tree"), drafts_s)

    def around(self, context: int, max_nodes: int, repeats: int) -> Costs:
        """What texts of about `context` tokens need, alone, with at most `max_nodes` guesses."""
        longest = 1 + max(1, max_nodes)
        forwards = [(1, tokens) for tokens in sorted({1, 2, longest})]
        with ExitStack() as stack:
            runs = self._target_runs(stack, 1, context, context + longest)
            calls = self._target_calls(context, runs, forwards, PREFILLS[:2])
            calls |= self._draft_calls(stack, self._own, context, (1,))
            return self._costs(time_in_turn(calls, repeats, self._order))

    def _costs(self, found: Mapping[Any, float]) -> Costs:
        """The part of what was measured that is in the config's own precision."""
        forward_s, prefill_s = _part(found, "forward"), _part(found, "prefill")
        return Costs(found["stock", 1], forward_s, prefill_s, _part(found, self._own))

    def _target_calls(
        self,
        context: int,
        runs: Sequence[Run],
        forwards: Sequence[tuple[int, int]],
        prefills: Sequence[int],
    ) -> Calls:
        """The stock model's row, forwards by (sequences, tokens of each), and whole prompts."""
        calls: Calls = {("stock", 1): self._stock_call(context)}
        for sequences, tokens in forwards:
            segments = [Segment(run, context, tokens) for run in runs[:sequences]]
            calls["forward", (sequences, tokens)] = self._forward_call(segments)
        for length in prefills:
            calls["prefill", length] = self._prefill_call(runs[-1], length)
        return calls

    def _target_runs(self, stack: ExitStack, most: int, context: int, length: int) -> list[Run]:
        """So many runs with `context` tokens of cache, and one more that prompts may overwrite."""
        ids = self._ids(context)
        runs = _reserve(stack, self._model.pool.allocator, most + 1, max(length, *PREFILLS))
        for run in runs:
            self._model.forward(ids, [Segment(run, 0, context)], [])
        return runs

    def _forward_call(self, segments: Sequence[Segment]) -> Call:
        ids = self._ids(sum(segment.num_rows for segment in segments))
        return lambda: self._model.forward(ids, segments, range(len(ids)))

    def _prefill_call(self, run: Run, length: int) -> Call:
        ids = self._ids(length)
        return lambda: self._model.forward(ids, [Segment(run, 0, length)], [length - 1])

    def _draft_calls(
        self, stack: ExitStack, precision: Precision, context: int, counts: Sequence[int]
    ) -> Calls:
        """Draft steps by (exit layer, rows)."""
        network = self._networks[precision]
        groups = range(len(network.exit_layers))
        ids = self._ids(context)
        runs = _reserve(stack, network.pool.allocator, max(counts), context + 1)
        for run in runs:
            for group in groups:
                network.run_group(group, ids, [Segment(run, 0, context)])

        def step_of(segments: Sequence[Segment], depth: int) -> Call:
            def step() -> None:
                for group in groups[: depth + 1]:
                    hidden = network.run_group(group, ids[: len(segments)], segments)
                    network.exit_logits(group, hidden)

            return step

        return {
            (precision, (layer, rows)): step_of(
                [Segment(run, context, 1) for run in runs[:rows]], depth
            )
            for depth, layer in enumerate(network.exit_layers)
            for rows in counts
        }

    def _stock_call(self, context: int) -> Call:
        """One row behind a cache of `context` tokens, which is cut back after each call."""
        stock = self._stock
        with torch.inference_mode():
            cache = stock(torch.tensor([self._ids(context)]), use_cache=True).past_key_values
        row = torch.tensor([self._ids(1)])

        @torch.inference_mode()
        def step() -> None:
            stock(row, past_key_values=cache, use_cache=True)
            cache.crop(-1)

        return step

    def _ids(self, length: int) -> list[int]:
        return [(37 * index + 11) % self._model.vocab_size for index in range(length)]


def _part(found: Mapping[Any, float], kind: str) -> dict[Any, float]:
    return {key: seconds for (each, key), seconds in found.items() if each == kind}


def _reserve(stack: ExitStack, allocator: RunAllocator, count: int, length: int) -> list[Run]:
    """So many runs, which `stack` gives back. Raises ModelError if the pool has no room."""
    runs = []
    for _ in range(count):
        run = allocator.reserve(length)
        if run is None:
            raise ModelError(
                f"kv_cache_mib: measuring costs needs room for {count} texts of {length} tokens"
            )
        stack.callback(allocator.release, run)
        runs.append(run)
    return runs
