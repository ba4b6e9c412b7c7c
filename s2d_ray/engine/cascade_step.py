"""One step of the cascade over rows of draft sessions: which sub-model speaks, and its guesses.

Runs layer groups and moves the sessions' fills; knows no calls, deadlines or replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from s2d_ray.core.coupling import perturbed_scores
from s2d_ray.engine.draft_rows import Drafted, Guess, Level
from s2d_ray.engine.draft_session import DraftSession
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Copy, KVPool

AnyDrafted = TypeVar("AnyDrafted", bound=Drafted)


class Network(Protocol):
    """What the engine needs of a sorted draft; see `models.sorted_draft.DraftNetwork`."""

    exit_layers: tuple[int, ...]
    head_ids: Tensor
    pool: KVPool

    def run_group(
        self, group: int, token_ids: Sequence[int], segments: Sequence[Segment]
    ) -> Tensor: ...

    def exit_logits(self, submodel: int, hidden: Tensor) -> Tensor: ...

    def copy(self, copy: Copy) -> None: ...


class CascadeStep:
    """Runs the sub-models of one draft."""

    def __init__(self, network: Network, max_debt: int, counters: Counter[str]) -> None:
        """max_debt: positions a deeper layer group may lag behind. counters: are added to."""
        self._network = network
        self._num_groups = len(network.exit_layers)
        self._max_debt = max_debt
        self._counters = counters

    def climb(self, rows: Sequence[AnyDrafted]) -> Iterator[tuple[AnyDrafted, Level]]:
        """One position of every row, each up to the sub-model that speaks; shallow ones first."""
        climbing = rows
        for submodel in range(self._num_groups):
            if not climbing:
                return
            deeper = []
            for row, guesses in zip(climbing, self._run_submodel(submodel, climbing), strict=True):
                plan = row.request.plan
                goes_on = not guesses or plan.goes_deeper(
                    submodel, guesses[0].confidence, self._num_groups
                )
                if goes_on and not self._is_late(row, submodel):
                    deeper.append(row)
                else:
                    yield row, Level(submodel, guesses, held_back=goes_on)
            climbing = deeper

    def _is_late(self, row: Drafted, submodel: int) -> bool:
        """Whether the layers behind a sub-model lag too far behind to be asked."""
        is_last = submodel == self._num_groups - 1
        return not is_last and row.session.debt(submodel + 1) > self._max_debt

    def _passes(self, row: Drafted, submodel: int) -> bool:
        """Whether a row climbs on whatever the sub-model would say."""
        always = row.request.plan.always_goes_deeper(submodel, self._num_groups)
        return always and not self._is_late(row, submodel)

    def _run_submodel(self, submodel: int, rows: Sequence[Drafted]) -> list[tuple[Guess, ...]]:
        """Bring one layer group up to date for some rows, and score the last positions of those
        that may stay; the others have no guesses."""
        segments, token_ids = [], []
        for row in rows:
            session = row.session
            first = session.fill[submodel]
            segments.append(Segment(session.run, first, len(session.ids) - first))
            token_ids += session.ids[first:]
            session.fill[submodel] = len(session.ids)
            if submodel > 0 and segments[-1].num_rows > 1:
                self._counters["caught_up_positions"] += segments[-1].num_rows - 1
        hidden = self._network.run_group(submodel, token_ids, segments)
        guesses: list[tuple[Guess, ...]] = [()] * len(rows)
        asked = [place for place, row in enumerate(rows) if not self._passes(row, submodel)]
        if asked:
            logits = self._network.exit_logits(submodel, hidden[asked])
            for place, scores in zip(asked, logits, strict=True):
                guesses[place] = self._guesses(rows[place], scores)
        return guesses

    def _guesses(self, row: Drafted, logits: Tensor) -> tuple[Guess, ...]:
        """The likeliest tokens under the noise the target will draw with. logits [head_size].

        The k best of the perturbed scores keep a tree exact at any temperature (design D2). Always
        as many as the plan's widest level has: which of two equal scores comes first depends on k.
        """
        scores = perturbed_scores(
            logits.float() if row.hints is None else logits.float() + row.hints,
            row.request.temperature,
            row.request.seed,
            len(row.session.ids),
            self._network.head_ids,
        )
        best = torch.topk(scores, min(row.request.plan.tree_width, len(scores)))
        tokens: list[int] = self._network.head_ids[best.indices].tolist()
        confidences: list[float] = torch.softmax(scores, dim=-1)[best.indices].tolist()
        return tuple(Guess(*pair) for pair in zip(tokens, confidences, strict=True))

    def fill(self, session: DraftSession, length: int) -> None:
        """Bring every layer group of a session up to its first `length` ids."""
        for group in range(self._num_groups):
            first = session.fill[group]
            if length > first:
                segment = Segment(session.run, first, length - first)
                self._network.run_group(group, session.ids[first:length], [segment])
                session.fill[group] = length
