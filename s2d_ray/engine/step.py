"""One packed forward of a target: what goes into it, and what the texts in it came to."""

from __future__ import annotations

from dataclasses import dataclass, field

from s2d_ray.engine.drawing import Draw
from s2d_ray.engine.sequence import Sequence
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Copy


@dataclass(frozen=True)
class Round:
    """What a round of a text came to: guesses made and accepted, and tokens committed."""

    sequence: Sequence
    num_drafted: int
    num_accepted: int
    num_committed: int


@dataclass
class Step:
    """One packed forward: its rows, which of them to score, and how to draw from each.

    drawing: (sequence, number of its wanted rows), in row order. copies: to be made before it.
    packed: (sequence, its computed positions before this step), in row order. has_prompts: whether
    ids are computed in chunks in it. rounds: of the texts that decode, once it is committed.
    """

    copies: list[Copy] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    wanted_rows: list[int] = field(default_factory=list)
    draws: list[Draw] = field(default_factory=list)
    drawing: list[tuple[Sequence, int]] = field(default_factory=list)
    packed: list[tuple[Sequence, int]] = field(default_factory=list)
    has_prompts: bool = False
    rounds: list[Round] = field(default_factory=list)

    def pack(self, sequence: Sequence, tokens: list[int], draws: list[Draw]) -> None:
        """Rows of committed ids, then those of the proposal; the last committed one and all of the
        proposal's are scored, one draw for each."""
        assert sequence.run is not None
        proposal = sequence.proposal
        root = len(tokens) - 1
        parents = (*range(root), *(root + parent for parent in proposal.parents))
        rows = [*tokens, *proposal.tokens]
        if parents == tuple(range(len(rows) - 1)):
            parents = ()  # a chain
        self.packed.append((sequence, sequence.num_computed))
        self.segments.append(Segment(sequence.run, sequence.num_computed, len(rows), parents))
        self.token_ids += rows
        if draws:
            end = len(self.token_ids)
            self.wanted_rows += range(end - len(draws), end)
            self.draws += draws
            self.drawing.append((sequence, len(draws)))
