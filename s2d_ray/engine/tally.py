"""What the rounds of one text have come to."""

from __future__ import annotations

from collections import Counter

from s2d_ray.engine.messages import RoundCount, Usage


class Tally:
    """Counts of one text, over all replicas that have written it."""

    def __init__(self, earlier: Usage | None = None) -> None:
        """earlier: what another replica had counted when this one took the text over."""
        counted = earlier or Usage(0)
        self.num_rounds = counted.rounds
        self.num_misses = counted.draft_misses
        self.accepted_by_rank: Counter[int] = Counter(counted.accepted_by_rank)
        self._num_drafted = counted.drafted_tokens
        self._num_cached = counted.cached_tokens
        self._has_started = earlier is not None
        self._accepted_by: Counter[int] = Counter(counted.accepted_by_submodel)
        self._rounds_by_length: Counter[tuple[int, int]] = Counter(
            {(each.drafted, each.accepted): each.rounds for each in counted.rounds_by_length}
        )
        self._num_accepted_now = 0

    def start(self, num_copied: int) -> None:
        """The text runs. Only the first start counts: what is copied later had been computed."""
        if not self._has_started:
            self._num_cached = num_copied
        self._has_started = True

    def begin_round(self, num_drafted: int, *, decoding: bool) -> None:
        """A forward; the one that ends the prompt is no round."""
        self.num_rounds += decoding
        self._num_drafted += num_drafted
        self._num_accepted_now = 0

    def accept(self, drafted_by: int, rank: int) -> None:
        """A guess was right."""
        self._accepted_by[drafted_by] += 1
        self.accepted_by_rank[rank] += 1
        self._num_accepted_now += 1

    def end_round(self, depth: int) -> None:
        """The round is committed; depth: of its proposal."""
        if self.num_rounds:
            self._rounds_by_length[depth, self._num_accepted_now] += 1

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
            draft_misses=self.num_misses,
            rounds_by_length=tuple(
                RoundCount(drafted, accepted, rounds)
                for (drafted, accepted), rounds in sorted(self._rounds_by_length.items())
            ),
        )
