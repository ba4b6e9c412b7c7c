"""Bare calls of loaded models, and their times: target forwards, prompts and draft steps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch

from s2d_ray.errors import ModelError
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Run, RunAllocator
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork

CONTEXT = 200
"""Tokens in the cache before what is timed, where nothing else is said."""

Call = Callable[[], object]
Calls = dict[Any, Call]
Shape = tuple[int, int]
Key = TypeVar("Key")


def time_in_turn(calls: Mapping[Key, Call], rounds: int, order: random.Random) -> dict[Key, float]:
    """Median seconds of each call, after one untimed round.

    The calls take turns, in an order drawn anew for each round, so that none always follows the
    same one and a busy machine slows all alike.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in calls}
    for call in calls.values():
        call()
    _settle()
    for _ in range(rounds):
        for key in order.sample(list(calls), len(calls)):
            started_s = time.perf_counter()
            calls[key]()
            _settle()
            seconds[key].append(time.perf_counter() - started_s)
    return {key: median(values) for key, values in seconds.items()}


def _settle() -> None:
    """Wait for what a GPU has been given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class TargetCalls:
    """Calls of a target behind `context` tokens. stack: gives the runs back."""

    def __init__(self, model: RaggedModel, stack: ExitStack, context: int) -> None:
        self._model = model
        self._stack = stack
        self._context = context
        self._runs: list[Run] = []

    def forwards(self, shapes: Iterable[Shape]) -> Calls:
        """By (texts, tokens of each), every row scored. Raises ModelError if there is no room."""
        shapes = list(shapes)
        self._reserve(max(texts for texts, _ in shapes), max(tokens for _, tokens in shapes))
        return {
            (texts, tokens): self._forward(
                [Segment(run, self._context, tokens) for run in self._runs[:texts]]
            )
            for texts, tokens in shapes
        }

    def trees(self, named: Mapping[str, tuple[int, ...]]) -> Calls:
        """Over a tree of one text behind its last token, by the parents of its rows."""
        self._reserve(1, max(1 + len(parents) for parents in named.values()))
        return {
            name: self._forward([Segment(self._runs[0], self._context, 1 + len(parents), parents)])
            for name, parents in named.items()
        }

    def prefills(self, lengths: Iterable[int]) -> Calls:
        """Over prompts, the last row scored."""
        lengths = list(lengths)
        [run] = reserve(self._stack, self._model.pool.allocator, 1, max(lengths))
        return {length: self._prefill(run, length) for length in lengths}

    def _reserve(self, texts: int, tokens: int) -> None:
        """At least so many runs with `context` tokens in them."""
        if len(self._runs) >= texts and self._runs[0].num_slots >= self._context + tokens:
            return
        allocator, ids = self._model.pool.allocator, ids_of(self._model.vocab_size, self._context)
        self._runs = reserve(self._stack, allocator, texts, self._context + tokens)
        for run in self._runs:
            self._model.forward(ids, [Segment(run, 0, self._context)], [])

    def _forward(self, segments: Sequence[Segment]) -> Call:
        ids = ids_of(self._model.vocab_size, sum(segment.num_rows for segment in segments))
        return lambda: self._model.forward(ids, segments, range(len(ids)))

    def _prefill(self, run: Run, length: int) -> Call:
        ids = ids_of(self._model.vocab_size, length)
        return lambda: self._model.forward(ids, [Segment(run, 0, length)], [length - 1])


def draft_steps(
    network: DraftNetwork, vocab_size: int, stack: ExitStack, context: int, counts: Sequence[int]
) -> Calls:
    """Draft steps of one row of each of several texts, by (exit layer, rows); every exit on the way
    is scored. Raises ModelError if the draft's cache has no room."""
    groups = range(len(network.exit_layers))
    ids = ids_of(vocab_size, context)
    runs = reserve(stack, network.pool.allocator, max(counts), context + 1)
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
        (layer, rows): step_of([Segment(run, context, 1) for run in runs[:rows]], depth)
        for depth, layer in enumerate(network.exit_layers)
        for rows in counts
    }


def draft_heads(network: DraftNetwork, counts: Sequence[int]) -> Calls:
    """Scores of so many rows at the deepest exit, by rows."""
    deepest = len(network.exit_layers) - 1
    hidden = torch.ones(
        max(counts), network.hidden_size, dtype=network.dtype, device=network.device
    )
    return {count: partial(network.exit_logits, deepest, hidden[:count]) for count in counts}


def ids_of(vocab_size: int, length: int) -> list[int]:
    """Some ids."""
    return [(37 * index + 11) % vocab_size for index in range(length)]


def reserve(stack: ExitStack, allocator: RunAllocator, count: int, length: int) -> list[Run]:
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
