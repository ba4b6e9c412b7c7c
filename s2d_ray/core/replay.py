"""What a plan would have done on texts that are written: replay of recorded guesses.

A trace knows, for each position of a text, what every exit guesses there behind the target's own
tokens. Where a round's guesses have all been right so far, that is what the draft would see, so
accepted lengths are those of real decoding, token for token. Behind a wrong guess the draft goes on
along a text that nobody recorded: how deep and how long is taken from the recorded text's next
positions, which concerns costs alone. Stdlib only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from s2d_ray.core.cascade import MAX_TREE_NODES, Plan
from s2d_ray.core.goodput import Candidate, DraftLevel
from s2d_ray.core.lookup import LONGEST_MATCH, Experience, Match, SuffixIndex, num_guesses

MAX_RANK = 8
"""Guesses of a node that traces tell apart; plans have no wider trees."""

WRONG = -1
"""Rank of a target's token that is none of the first `MAX_RANK` guesses."""


@dataclass(frozen=True)
class Spot:
    """What one exit guesses at one position. rank: of the target's token among its guesses, 0 being
    the likeliest, or `WRONG`. ends: whether its best guess is an end of the draft's."""

    confidence: float
    rank: int
    ends: bool = False


@dataclass(frozen=True)
class Trace:
    """A text and all guesses about it.

    spots: [output tokens - 1][exits], of the output's second token first: the prompt's forward
    writes the first one. max_tokens: the cap it was written under. end_ids: that could end it.
    """

    exit_layers: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    max_tokens: int
    temperature: float
    end_ids: tuple[int, ...]
    spots: Sequence[Sequence[Spot]]
    _lookups: dict[int, list[tuple[Match, tuple[int, ...]] | None]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Prompt and output."""
        return (*self.prompt_ids, *self.output_ids)

    def lookup(self, gram: int, written: int) -> tuple[Match, tuple[int, ...]] | None:
        """Tier 0's match behind so many output tokens, and its guesses."""
        if gram not in self._lookups:
            index = SuffixIndex(gram)
            found = self._lookups[gram] = []
            for count in range(1, len(self.output_ids)):
                ids = self.ids[: len(self.prompt_ids) + count]
                match = index.find(ids)
                guesses = () if match is None else tuple(match.guess(ids, LONGEST_MATCH))
                found.append(None if match is None else (match, guesses))
        return self._lookups[gram][written - 1]


@dataclass
class Rounds:
    """Sums over rounds. shares, positions: by (level, exit), as in `DraftLevel`."""

    rounds: int = 0
    committed: int = 0
    nodes: Counter[int] = field(default_factory=Counter)
    shares: Counter[tuple[int, int]] = field(default_factory=Counter)
    positions: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __add__(self, other: Rounds) -> Rounds:
        return Rounds(
            self.rounds + other.rounds,
            self.committed + other.committed,
            self.nodes + other.nodes,
            self.shares + other.shares,
            self.positions + other.positions,
        )

    def candidate(self, plan: Plan) -> Candidate:
        """The means. Without a round, nothing is known but what plain decoding does."""
        if not self.rounds:
            return Candidate(plan)
        levels = tuple(
            DraftLevel(self._means(self.shares, level), self._means(self.positions, level))
            for level in sorted({level for level, _ in self.shares})
        )
        return Candidate(
            plan,
            max(1.0, self.committed / self.rounds),
            {count: number / self.rounds for count, number in sorted(self.nodes.items())},
            levels,
            self.rounds,
        )

    def _means(self, sums: Counter[tuple[int, int]], level: int) -> dict[int, float]:
        return {exit_: n / self.rounds for (at, exit_), n in sorted(sums.items()) if at == level}


def replay(plan: Plan, traces: Iterable[Trace], max_debt: int = 64) -> list[Rounds]:
    """The rounds of each text, written one after another under one plan, as `auto` would.

    The draft is taken to have read the prompt before the first round. max_debt: the config's.
    """
    experience = Experience()
    found = []
    for trace in traces:
        text = Rewriting(trace, experience, max_debt)
        while not text.is_over:
            text.round(plan)
        found.append(text.rounds)
    return found


class Rewriting:
    """A recorded text that is written once more, round by round."""

    def __init__(self, trace: Trace, experience: Experience, max_debt: int = 64) -> None:
        """experience: of tier 0, which learns from text to text."""
        self._trace = trace
        self._experience = experience
        self._max_debt = max_debt
        self._written = 1
        self._fill = [len(trace.prompt_ids)] * len(trace.exit_layers)
        self.rounds = Rounds()

    @property
    def is_over(self) -> bool:
        """Whether all of it is written."""
        return self._written >= len(self._trace.output_ids)

    def round(self, plan: Plan) -> int:
        """One round under a plan. -> the accepted guesses"""
        # With one token left, a guess could save no forward.
        found = self._by_tier0(plan) if self._remaining > 1 else (0, 0)
        nodes, accepted = self._by_draft(plan) if found is None else found
        committed = min(accepted + 1, len(self._trace.output_ids) - self._written)
        self.rounds.rounds += 1
        self.rounds.committed += committed
        self.rounds.nodes[nodes] += 1
        self._written += committed
        return accepted

    @property
    def _remaining(self) -> int:
        return self._trace.max_tokens - self._written

    def _deepest(self, longest: int) -> int:
        """Levels that the target would take, of so many."""
        return min(longest, self._remaining - 1)

    def _by_tier0(self, plan: Plan) -> tuple[int, int] | None:
        """Nodes and accepted ones of a proposal of tier 0; None where the draft is asked."""
        trace = self._trace
        found = trace.lookup(plan.min_match, self._written) if plan.min_match else None
        if found is None:
            return None
        match, guesses = found
        confidence = self._experience.confidence(match)
        count = num_guesses(confidence, plan.max_lookup)
        if count == 0:
            return None
        if plan.max_proposal and not self._experience.prefers(confidence, count, plan.draft_toll):
            return None
        kept = guesses[: self._deepest(count)]
        end = next((n for n, token in enumerate(kept, 1) if token in trace.end_ids), len(kept))
        kept = kept[:end]
        accepted = 0
        for guess, token in zip(kept, trace.output_ids[self._written :], strict=False):
            if guess != token:
                break
            accepted += 1
        self._experience.learn(match, len(kept), accepted)
        return len(kept), accepted

    def _by_draft(self, plan: Plan) -> tuple[int, int]:
        """Nodes and accepted ones of a proposal of the draft."""
        trace = self._trace
        length = len(trace.prompt_ids) + self._written
        nodes = drafted = accepted = level = spine = 0
        path, alive, held_back = 1.0, True, False
        while level < plan.max_proposal and level < self._remaining:
            place = min(self._written - 1 + level, len(trace.spots) - 1)
            exit_, held = self._climb(plan, level, length + level, trace.spots[place])
            held_back |= held
            spot = trace.spots[place][exit_]
            path *= spot.confidence
            if plan.stops(path):
                break
            width = plan.width_at(level)
            width = width if drafted + width <= MAX_TREE_NODES else 1
            drafted += width
            if level < self._deepest(plan.max_proposal):
                nodes += width
                alive = alive and self._written + level < len(trace.output_ids)
                if alive and 0 <= spot.rank < width:
                    accepted += 1
                    spine += spot.rank == 0
                alive = alive and spot.rank == 0
            level += 1
            if spot.ends:
                break
        self._fill = [min(fill, length + spine) for fill in self._fill]
        if held_back:  # it is brought up to date between rounds
            self._fill = [length] * len(self._fill)
        if nodes:
            self._experience.learn_draft(accepted)
        return nodes, accepted

    def _climb(
        self, plan: Plan, level: int, length: int, spots: Sequence[Spot]
    ) -> tuple[int, bool]:
        """Run the groups that the cascade wants at a level. -> the exit that speaks, and whether a
        deeper one should have, but lags too far behind."""
        layers, rounds = self._trace.exit_layers, self.rounds
        for exit_, spot in enumerate(spots):
            rounds.shares[level, layers[exit_]] += 1
            rounds.positions[level, layers[exit_]] += length - self._fill[exit_]
            self._fill[exit_] = length
            if not plan.goes_deeper(exit_, spot.confidence, len(layers)):
                return exit_, False
            if length - self._fill[exit_ + 1] > self._max_debt:
                return exit_, True
        raise AssertionError("the deepest exit always speaks")
