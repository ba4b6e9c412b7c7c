"""Tier 0: the next tokens are guessed by finding the end of the text earlier in the text.

It needs no model: repetition, quotation and code make it right often enough. Stdlib only.
Source: the idea is prompt lookup (Saxena, 2023), here over prompt and output with an index.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

MAX_PLACES = 8
"""Earlier places looked at for one guess, the latest first."""

LONGEST_MATCH = 32
"""Longer matches are as good as this."""

PRIOR_TRIED, PRIOR_RIGHT = 4, 2
"""A match of a length not seen yet counts as if it had been right so many times."""

LEAST_CHANCE = 0.02
"""Guesses go on while all of them together are right this often; they cost no more than their rows
in the target's forward, which a draft's stop threshold is not about."""


@dataclass(frozen=True)
class Match:
    """The end of a text, found earlier: `position` is where it went on there."""

    position: int
    length: int

    def guess(self, ids: Sequence[int], count: int) -> list[int]:
        """What came behind it there, repeated once it reaches the end of the text."""
        guesses: list[int] = []
        for place in range(self.position, self.position + count):
            guesses.append(ids[place] if place < len(ids) else guesses[place - len(ids)])
        return guesses


class SuffixIndex:
    """Where each run of `gram` ids of a growing text has ended."""

    def __init__(self, gram: int) -> None:
        self.gram = gram
        self._ends: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        self._num_read = 0

    def find(self, ids: Sequence[int]) -> Match | None:
        """The longest match of the end of `ids`, of equal ones the latest.

        ids: the text of the call before, perhaps grown.
        """
        for end in range(max(self.gram, self._num_read + 1), len(ids)):
            self._ends[tuple(ids[end - self.gram : end])].append(end)
        self._num_read = max(self._num_read, len(ids) - 1)
        places = self._ends.get(tuple(ids[-self.gram :]), ()) if len(ids) >= self.gram else ()
        matches = [Match(end, self._length(ids, end)) for end in places[-MAX_PLACES:]]
        return max(matches, key=lambda match: (match.length, match.position), default=None)

    def _length(self, ids: Sequence[int], end: int) -> int:
        """Ids before `end` that equal those at the end of the text."""
        length = self.gram
        while length < min(end, LONGEST_MATCH) and ids[end - 1 - length] == ids[-1 - length]:
            length += 1
        return length


def num_guesses(confidence: float, longest: int) -> int:
    """How many to make, each being right this often behind right ones."""
    count = 0
    while count < longest and confidence ** (count + 1) >= LEAST_CHANCE:
        count += 1
    return count


class Experience:
    """How often guesses were right: tier 0's by the length of their match, and the draft's."""

    def __init__(self) -> None:
        self._tried: Counter[int] = Counter()
        self._right: Counter[int] = Counter()
        self._draft_gain = 0.0
        self._num_draft = 0

    def confidence(self, match: Match) -> float:
        """P(the next guess is right | those before it were), for guesses of such a match."""
        size = match.length.bit_length()
        return (self._right[size] + PRIOR_RIGHT) / (self._tried[size] + PRIOR_TRIED)

    def learn(self, match: Match, num_guesses: int, num_accepted: int) -> None:
        """Take in how a proposal of tier 0 did."""
        size = match.length.bit_length()
        self._tried[size] += min(num_guesses, num_accepted + 1)
        self._right[size] += num_accepted

    def learn_draft(self, num_accepted: int) -> None:
        """Take in how a proposal of the draft did; recent ones weigh most."""
        self._num_draft += 1
        weight = max(0.02, 1.0 / self._num_draft)
        self._draft_gain += weight * (num_accepted - self._draft_gain)

    def prefers(self, confidence: float, num_guesses: int, draft_toll: float) -> bool:
        """Whether tier 0's round is expected to commit as much for its time as the draft's did.

        Both commit the target's own token too; a round of the draft takes 1 + draft_toll as long.
        """
        gain = sum(confidence**depth for depth in range(1, num_guesses + 1))
        return (1.0 + gain) * (1.0 + draft_toll) >= 1.0 + self._draft_gain
