"""The shared draft as a batch server: how long a proposal takes while so many replicas ask."""

from __future__ import annotations

from collections.abc import Callable

CLOSE = 1e-3
"""Relative change at which the fixed point is found."""


class SharedDraft:
    """All replicas alternate between asking it for `levels` guesses and a forward of their own.

    Its steps take all rows that are there. Of N rows whose forward takes F the share D / (D + F) is
    at the draft, where D is what a proposal takes with that many rows in a step: a fixed point.
    Steps get dearer with rows, so the draft saturates. Means, not single steps: a replica looks
    at what the others do whenever it plans.
    """

    def __init__(self, levels: int, step_s: Callable[[int], float], acceptance: float) -> None:
        """acceptance: probability that a guess is right if those before it are."""
        self.levels = levels
        self.tokens_per_round = sum(acceptance**level for level in range(levels + 1))
        self._step_s = step_s
        self._users: dict[object, tuple[int, float]] = {}
        self._rows = 0
        self._forwards_s = 0.0

    @property
    def rows(self) -> int:
        """Of all replicas that speculate now."""
        return self._rows

    def join(self, user: object, rows: int, forward_s: float) -> None:
        """A replica speculates for so many texts, and its forward takes so long."""
        self.leave(user)
        self._users[user] = (rows, forward_s)
        self._rows += rows
        self._forwards_s += rows * forward_s

    def leave(self, user: object) -> None:
        """A replica does not speculate."""
        rows, forward_s = self._users.pop(user, (0, 0.0))
        self._rows -= rows
        self._forwards_s -= rows * forward_s

    def round_s(self, user: object, rows: int, forward_s: float) -> float:
        """Seconds that a proposal would take for a replica, if it took part like this."""
        own_rows, own_s = self._users.get(user, (0, 0.0))
        total = self._rows - own_rows + rows
        mean_s = (self._forwards_s - own_rows * own_s + rows * forward_s) / total
        proposal_s = self.levels * self._step_s(rows)
        while True:
            share = proposal_s / (proposal_s + mean_s)
            # From below the steps rise to the least fixed point, and never past all rows.
            longer_s = self.levels * self._step_s(max(rows, round(total * share)))
            if longer_s <= proposal_s * (1 + CLOSE):
                return longer_s
            proposal_s = longer_s
