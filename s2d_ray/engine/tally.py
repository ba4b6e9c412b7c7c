"""What the rounds of one text have come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from s2d_ray.engine.messages import Round, RoundCount, Usage


class Tally:
    """Counts of one text, over all replicas that have written it."""

    def __init__(self, earlier: Usage | None = None) -> None:
        """earlier: what another replica had counted when this one took the text over."""
        counted = earlier or Usage(0)
        self.num_rounds = counted.rounds
        self._num_misses = counted.draft_misses
        self.accepted_by_rank: Counter[int] = Counter(counted.accepted_by_rank)
        self._num_drafted = counted.drafted_tokens
        self._num_cached = counted.cached_tokens
        self._has_started = earlier is not None
        self._accepted_by: Counter[int] = Counter(counted.accepted_by_submodel)
        self._rounds_by_length: Counter[tuple[int, int]] = Counter(
            {(each.drafted, each.accepted): each.rounds for each in counted.rounds_by_length}
        )
        self._num_drafted_now = self._num_misses_now = 0
        self._accepted_now: list[tuple[int, int]] = []
        self._untold: list[Round] = []
        self._untold_cached = 0

    def start(self, num_copied: int) -> None:
        """The text runs. Only the first start counts: what is copied later had been computed."""
        if not self._has_started:
            self._num_cached = self._untold_cached = num_copied
        self._has_started = True

    def miss(self) -> None:
        """The draft did not answer in time for the round that comes."""
        self._num_misses_now += 1

    def begin_round(self, num_drafted: int, *, decoding: bool) -> None:
        """A forward; the one that ends the prompt is no round."""
        self.num_rounds += decoding
        self._num_drafted_now = num_drafted
        self._accepted_now = []

    def accept(self, drafted_by: int, rank: int) -> None:
        """A guess was right."""
        self._accepted_now.append((drafted_by, rank))

    def end_round(self, depth: int) -> None:
        """The round is committed; depth: of its proposal."""
        if not self.num_rounds:
            return
        accepted = tuple(self._accepted_now)
        round_ = (self._num_drafted_now, depth, self._num_misses_now, accepted)
        self._num_misses_now = 0
        self._count(round_)
        self._untold.append(round_)

    def untold(self) -> tuple[tuple[Round, ...], int]:
        """What was not told before: rounds, and tokens of the prompt that were copied."""
        told = tuple(self._untold), self._untold_cached
        self._untold, self._untold_cached = [], 0
        return told

    def take(self, rounds: Iterable[Round]) -> None:
        """Count what the tally of another process has told."""
        for round_ in rounds:
            self.num_rounds += 1
            self._count(round_)

    def _count(self, round_: Round) -> None:
        num_drafted, depth, num_misses, accepted = round_
        self._num_drafted += num_drafted
        self._num_misses += num_misses
        self._rounds_by_length[depth, len(accepted)] += 1
        for drafted_by, rank in accepted:
            self._accepted_by[drafted_by] += 1
            self.accepted_by_rank[rank] += 1

    def usage(self, num_prompt: int, num_output: int) -> Usage:
        """The same as a message."""
        return Usage(
            prompt_tokens=num_prompt,
            completion_tokens=num_output,
            cached_tokens=self._num_cached,
            rounds=self.num_rounds,
            drafted_tokens=self._num_drafted,
            accepted_tokens=self._accepted_by.total(),
            accepted_by_submodel=dict(sorted(self._accepted_by.items())),
            accepted_by_rank=dict(sorted(self.accepted_by_rank.items())),
            draft_misses=self._num_misses,
            rounds_by_length=tuple(
                RoundCount(drafted, accepted, rounds)
                for (drafted, accepted), rounds in sorted(self._rounds_by_length.items())
            ),
        )
