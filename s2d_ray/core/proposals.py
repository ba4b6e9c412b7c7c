"""Proposals are trees of guessed tokens; a chain is the plain case. Verification walks them.

Row 0 of a round is the last committed token (the root); node i of the proposal is row i + 1.
`parents[i]` is the row that node i hangs on, so it is at most i and no sentinel is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Proposal:
    """Guessed tokens behind the last committed one.

    tokens: [nodes] full-vocabulary ids. parents: [nodes] rows, parents[i] <= i.
    Raises ValueError if a parent does not come before its child or two siblings are equal.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents):
            raise ValueError("a proposal needs one parent per token")
        if any(not 0 <= parent <= node for node, parent in enumerate(self.parents)):
            raise ValueError("a parent must be an earlier row of the proposal")
        if len(set(zip(self.parents, self.tokens, strict=True))) != len(self.tokens):
            raise ValueError("two children of one row guess the same token")

    @classmethod
    def chain(cls, tokens: Sequence[int]) -> Proposal:
        """Each token hangs on the one before it."""
        return cls(tuple(tokens), tuple(range(len(tokens))))

    def depths(self) -> tuple[int, ...]:
        """[rows] steps from the root, the root included as 0."""
        depths = [0]
        for parent in self.parents:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    def child(self, row: int, token: int) -> int | None:
        """The row that guesses `token` right behind `row`, if any."""
        for node, (parent, guess) in enumerate(zip(self.parents, self.tokens, strict=True)):
            if parent == row and guess == token:
                return node + 1
        return None

    def spine(self) -> list[int]:
        """Rows along first children, the root excluded: the branch that stays in the cache."""
        rows: list[int] = []
        while (rows[-1] if rows else 0) in self.parents:
            rows.append(self.parents.index(rows[-1] if rows else 0) + 1)
        return rows

    def pruned(self, keep: Callable[[int], bool]) -> tuple[Proposal, tuple[int, ...]]:
        """Drop nodes that `keep` refuses and all behind them. -> the rest, and its old numbers.

        keep is asked of each node whose ancestors all stay, in their order.
        """
        new_row = {0: 0}
        kept: list[int] = []
        for node, parent in enumerate(self.parents):
            if parent in new_row and keep(node):
                kept.append(node)
                new_row[node + 1] = len(kept)
        tokens = tuple(self.tokens[node] for node in kept)
        parents = tuple(new_row[self.parents[node]] for node in kept)
        return Proposal(tokens, parents), tuple(kept)

    def within(self, max_depth: int, terminal: Collection[int]) -> Callable[[int], bool]:
        """For `pruned`: nodes at most so deep and not behind a terminal token, such as EOS."""
        depths = self.depths()

        def keep(node: int) -> bool:
            parent = self.parents[node]
            behind_end = parent > 0 and self.tokens[parent - 1] in terminal
            return depths[node + 1] <= max_depth and not behind_end

        return keep


EMPTY = Proposal((), ())


@dataclass(frozen=True)
class Verdict:
    """Outcome of one round.

    path: rows of the accepted nodes, root excluded, from the root outwards.
    tokens: the accepted tokens, then one token of the target's own; 1 + len(path) of them.
    """

    path: tuple[int, ...]
    tokens: tuple[int, ...]


def verify(proposal: Proposal, drawn: Sequence[int]) -> Verdict:
    """Keep the guesses that equal the target's own draws, up to the first disagreement.

    drawn: [1 + nodes], drawn[row] is the target's draw right behind that row. The tokens returned
    are draws of the target only: the proposal decides how many of them one forward yields.
    Source: arXiv 2408.07978, algorithm 1, extended to trees.
    """
    row = 0
    path: list[int] = []
    tokens = [drawn[0]]
    while (child := proposal.child(row, tokens[-1])) is not None:
        row = child
        path.append(row)
        tokens.append(drawn[row])
    return Verdict(tuple(path), tuple(tokens))
