"""Traces: a target writes a text, and every exit of the draft guesses at each of its positions.

All exits speak at all positions, so nothing that a plan would have hidden is missing, and no sample
needs a weight. One forward over the text does it, with the bits of the draft engine's own steps,
save for a draft in int4 (`models/int4.py`), where they are close.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from s2d_ray.core.coupling import perturbed_scores
from s2d_ray.core.replay import MAX_RANK, WRONG, Spot, Trace
from s2d_ray.models.attention import Segment
from s2d_ray.models.sorted_draft import DraftNetwork
from s2d_ray.models.stopwatch import reserve

ROWS = 64
"""Positions of one forward of the draft."""


class Recorder:
    """Records what the exits of a draft guess. eos: ids behind which the draft stops."""

    def __init__(self, network: DraftNetwork, eos: Collection[int]) -> None:
        self._network = network
        self._eos = frozenset(eos)
        self._head: list[int] = network.head_ids.tolist()

    def record(
        self,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        end_ids: Sequence[int],
    ) -> Trace:
        """The trace of a text that was drawn like this. Raises ModelError if it is too long."""
        ids = [*prompt_ids, *output_ids[:-1]]
        first = len(prompt_ids)
        with ExitStack() as stack:
            [run] = reserve(stack, self._network.pool.allocator, 1, len(ids))
            for group in range(len(self._network.exit_layers)):
                self._network.run_group(group, ids[:first], [Segment(run, 0, first)])
            spots = [
                spot
                for start in range(first, len(ids), ROWS)
                for spot in self._spots(
                    [Segment(run, row, 1) for row in range(start, min(start + ROWS, len(ids)))],
                    ids,
                    temperature,
                    seed,
                    output_ids,
                )
            ]
        return Trace(
            tuple(self._network.exit_layers),
            tuple(prompt_ids),
            tuple(output_ids),
            max_tokens,
            temperature,
            tuple(end_ids),
            spots,
        )

    def _spots(
        self,
        rows: Sequence[Segment],
        ids: Sequence[int],
        temperature: float,
        seed: int,
        output_ids: Sequence[int],
    ) -> Iterator[list[Spot]]:
        """What each exit guesses behind some rows."""
        network = self._network
        tokens = [ids[row.first_position] for row in rows]
        offset = len(ids) - len(output_ids) + 1
        by_exit = []
        for group in range(len(network.exit_layers)):
            hidden = network.run_group(group, tokens, rows)
            by_exit.append(network.exit_logits(group, hidden))
        for place, row in enumerate(rows):
            position = row.first_position + 1
            token = output_ids[position - offset]
            yield [
                self._spot(logits[place], temperature, seed, position, token) for logits in by_exit
            ]

    def _spot(
        self, logits: Tensor, temperature: float, seed: int, position: int, token: int
    ) -> Spot:
        """As the draft engine takes its guesses."""
        scores = perturbed_scores(
            logits.float(), temperature, seed, position, self._network.head_ids
        )
        best = torch.topk(scores, min(MAX_RANK, len(scores))).indices.tolist()
        guesses = [self._head[place] for place in best]
        confidence = float(torch.softmax(scores, dim=-1)[best[0]])
        rank = guesses.index(token) if token in guesses else WRONG
        return Spot(confidence, rank, guesses[0] in self._eos)
