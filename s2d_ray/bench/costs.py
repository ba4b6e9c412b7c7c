"""Costs of bare calls: target forwards, draft steps, and the stock model's own forward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from s2d_ray.bench.ideal import Costs
from s2d_ray.errors import ModelError
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Run, RunAllocator
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork

CURVES_CONTEXT = 200
"""Tokens in the cache before the rows of the whole curves."""

FORWARDS = ((1, 1), (1, 2), (1, 4), (1, 5), (1, 8), (1, 9), (4, 1), (8, 1), (4, 5))
"""(sequences, tokens of each) of the whole curve."""

PREFILLS = (32, 64, 128)
DRAFT_ROWS = (1, 2, 4, 8)

Call = Callable[[], object]


def time_in_turn(calls: dict[Any, Call], repeats: int) -> dict[Any, float]:
    """Median seconds of each call, after one untimed round; the calls take turns."""
    seconds: dict[Any, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for key, call in calls.items():
            started_s = time.perf_counter()
            call()
            seconds[key].append(time.perf_counter() - started_s)
    return {key: median(values) for key, values in seconds.items()}


class CostMeter:
    """Measures what it was given; nothing else may use model and network meanwhile."""

    def __init__(self, model: RaggedModel, network: DraftNetwork, stock: Any) -> None:
        self._model = model
        self._network = network
        self._stock = stock

    def curves(self, repeats: int) -> Costs:
        """The whole curves."""
        return self._measure(CURVES_CONTEXT, FORWARDS, PREFILLS, DRAFT_ROWS, repeats)

    def around(self, context: int, max_nodes: int, repeats: int) -> Costs:
        """What texts of about `context` tokens need, alone, with at most `max_nodes` guesses."""
        rows = {1, 2, 1 + max(1, max_nodes)}
        forwards = [(1, n) for n in sorted(rows)]
        return self._measure(context, forwards, PREFILLS[:2], (1,), repeats)

    def _measure(
        self,
        context: int,
        forwards: Sequence[tuple[int, int]],
        prefills: Sequence[int],
        draft_rows: Sequence[int],
        repeats: int,
    ) -> Costs:
        most, longest = (max(sizes) for sizes in zip(*forwards, strict=True))
        # One run more than the forwards need, so that no prompt overwrites their context.
        target_runs = _reserve(
            self._model.pool.allocator, most + 1, max(context + longest, *prefills)
        )
        draft_runs = _reserve(self._network.pool.allocator, max(draft_rows), context + 1)
        try:
            self._fill(context, target_runs, draft_runs)
            calls: dict[Any, Call] = {"stock": self._stock_call(context)}
            for shape in forwards:
                calls["forward", shape] = self._forward_call(context, target_runs, *shape)
            for length in prefills:
                calls["prefill", length] = self._prefill_call(target_runs[-1], length)
            for depth, layer in enumerate(self._network.exit_layers):
                for rows in draft_rows:
                    calls["draft", (layer, rows)] = self._draft_call(
                        context, draft_runs[:rows], depth
                    )
            found = time_in_turn(calls, repeats)
        finally:
            _release(self._model.pool.allocator, target_runs)
            _release(self._network.pool.allocator, draft_runs)
        kinds: dict[str, dict[Any, float]] = {"forward": {}, "prefill": {}, "draft": {}}
        stock_s = found.pop("stock")
        for (kind, key), seconds in found.items():
            kinds[kind][key] = seconds
        return Costs(stock_s, kinds["forward"], kinds["prefill"], kinds["draft"])

    def _ids(self, length: int) -> list[int]:
        return [(37 * index + 11) % self._model.vocab_size for index in range(length)]

    def _fill(self, context: int, target_runs: Sequence[Run], draft_runs: Sequence[Run]) -> None:
        """Give every run `context` tokens of cache."""
        ids = self._ids(context)
        for run in target_runs:
            self._model.forward(ids, [Segment(run, 0, context)], [])
        for run in draft_runs:
            for group in range(len(self._network.exit_layers)):
                self._network.run_group(group, ids, [Segment(run, 0, context)])

    def _forward_call(self, context: int, runs: Sequence[Run], sequences: int, tokens: int) -> Call:
        segments = [Segment(run, context, tokens) for run in runs[:sequences]]
        ids = self._ids(sequences * tokens)
        return lambda: self._model.forward(ids, segments, range(len(ids)))

    def _prefill_call(self, run: Run, length: int) -> Call:
        ids = self._ids(length)
        return lambda: self._model.forward(ids, [Segment(run, 0, length)], [length - 1])

    def _draft_call(self, context: int, runs: Sequence[Run], depth: int) -> Call:
        segments = [Segment(run, context, 1) for run in runs]
        ids = self._ids(len(runs))

        def step() -> None:
            for group in range(depth + 1):
                hidden = self._network.run_group(group, ids, segments)
                self._network.exit_logits(group, hidden)

        return step

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


def _reserve(allocator: RunAllocator, count: int, length: int) -> list[Run]:
    """So many runs. Raises ModelError if the pool has no room for them."""
    runs = [allocator.reserve(length) for _ in range(count)]
    kept = [run for run in runs if run is not None]
    if len(kept) < count:
        _release(allocator, kept)
        raise ModelError(f"kv_cache_mib: measuring costs needs {count} texts of {length} tokens")
    return kept


def _release(allocator: RunAllocator, runs: Sequence[Run]) -> None:
    for run in runs:
        allocator.release(run)
