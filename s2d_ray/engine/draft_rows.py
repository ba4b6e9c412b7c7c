"""Rows of propose calls while they are drafted: guesses become levels, levels become trees."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s2d_ray.core.cascade import MAX_TREE_NODES
from s2d_ray.engine.draft_session import DraftSession, SessionKey
from s2d_ray.engine.protocol import ProposeReply, ProposeRow, RowReply, RowStatus


@dataclass(frozen=True)
class Guess:
    """One of a sub-model's best tokens for a position."""

    token: int
    confidence: float


@dataclass(frozen=True)
class Level:
    """A sub-model's guesses for one position, the likeliest first.

    held_back: a deeper sub-model should have spoken, but its layers lag too far behind.
    """

    submodel: int
    guesses: tuple[Guess, ...]
    held_back: bool = False


class Hints:
    """What targets will add to the scores of a trimmed vocabulary. head_ids: [head_size]."""

    def __init__(self, head_ids: Tensor) -> None:
        self._index = {int(i): index for index, i in enumerate(head_ids)}
        self._device = head_ids.device

    def of(self, request: ProposeRow) -> Tensor | None:
        """The row's biases and bans [head_size]; None if it has none on this vocabulary."""
        addends = dict(request.logit_bias) | dict.fromkeys(request.banned, -torch.inf)
        known = {i: value for i, value in addends.items() if i in self._index}
        if not known:
            return None
        hints = torch.zeros(len(self._index), device=self._device)
        hints[[self._index[i] for i in known]] = hints.new_tensor(list(known.values()))
        return hints


@dataclass
class Drafted:
    """A text that is being guessed on, and how its target wants that done."""

    session: DraftSession
    request: ProposeRow
    hints: Tensor | None  # [head_size]


@dataclass
class Row(Drafted):
    """One row of a call."""

    key: SessionKey
    deadline_s: float
    tip: int = 0  # row of the spine's last node, 0 for the committed text
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    drafted_by: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    num_levels: int = 0
    path_confidence: float = 1.0
    held_back: bool = False
    done: bool = False

    def take(self, level: Level, exit_layer: int, eos: Collection[int]) -> bool:
        """Append a level and go on behind its best guess, or end. -> whether it was appended."""
        plan, best = self.request.plan, level.guesses[0]
        self.held_back |= level.held_back
        self.path_confidence *= best.confidence
        if plan.stops(self.path_confidence):
            self.done = True
            return False
        self._grow(level.guesses[: self._width()], exit_layer)
        self.session.append((best.token,))
        room = self.request.max_length - len(self.session.ids)
        self.done = self.num_levels >= plan.max_proposal or best.token in eos or room <= 0
        return True

    def _width(self) -> int:
        """Guesses wanted behind the tip; one once the tree is as large as a tree may be."""
        width = self.request.plan.width_at(self.num_levels)
        return width if len(self.tokens) + width <= MAX_TREE_NODES else 1

    def _grow(self, guesses: Collection[Guess], exit_layer: int) -> None:
        """Hang guesses behind the tip; the first, likeliest one is the new tip."""
        tip = self.tip
        for rank, guess in enumerate(guesses):
            self.tokens.append(guess.token)
            self.parents.append(tip)
            self.drafted_by.append(exit_layer)
            self.confidences.append(guess.confidence)
            self.ranks.append(rank)
        self.tip = len(self.tokens) - len(guesses) + 1
        self.num_levels += 1

    def reply(self) -> RowReply:
        """The proposal as far as it has come."""
        return RowReply(
            self.request.draft_session,
            self.request.at_length,
            RowStatus.OK,
            tuple(self.tokens),
            tuple(self.drafted_by),
            tuple(self.confidences),
            tuple(self.parents),
            tuple(self.ranks),
        )


@dataclass
class Call:
    """One call whose rows are not all answered yet."""

    replica: str
    call_no: int
    answered: list[RowReply] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    given_up: bool = False

    @property
    def done(self) -> bool:
        """Whether every row is answered."""
        return all(row.done for row in self.rows)

    def reply(self) -> ProposeReply:
        """Rows answered at once come first."""
        return ProposeReply(self.call_no, (*self.answered, *(row.reply() for row in self.rows)))
