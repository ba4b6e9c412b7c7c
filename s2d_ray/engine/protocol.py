"""The draft protocol: one call carries all rows of a target replica's batch. Plain data only.

Draft sessions are a cache. A row says which ids are committed, sends those the draft does not hold,
and proves the rest with a digest; any session may vanish at any time. Invariants: a target uses a
reply only if its call is the outstanding one and `at_length` is the committed length; the draft
drops calls older than the last seen of a replica; a replica has one outstanding call; `budget_ms`
is a remainder, never a clock time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import Tag

PROTOCOL_VERSION = 2

EMPTY_DIGEST = 0
_PRIME = (1 << 61) - 1
_BASE = 1_000_003


def extend_digest(digest: int, token_ids: Iterable[int]) -> int:
    """The digest of a text grown by some ids; depends on every id and its position."""
    for token_id in token_ids:
        digest = (digest * _BASE + token_id + 1) % _PRIME
    return digest


class RowStatus(StrEnum):
    """What the draft says of one row."""

    OK = "ok"
    NEEDS = "needs"  # it does not hold the ids below `base`: send them from `needs_from` on
    WARMING = "warming"  # it took the ids and prefills them; ask again next round
    BUSY = "busy"  # its cache is full of sessions in use


@dataclass(frozen=True)
class ProposeRow:
    """One sequence that wants a proposal.

    committed length = base + len(token_ids); digest covers all committed ids. max_length bounds the
    text (prompt + output cap), so that the draft reserves its cache once. logit_bias and banned are
    hints of what the target will add to its scores, and of ids it will not draw now. salt: texts of
    another salt must not profit from what this one computes. tag: of a traced text alone.
    """

    draft_session: str
    base: int
    token_ids: tuple[int, ...]
    digest: int
    max_length: int
    plan: Plan
    seed: int
    temperature: float
    logit_bias: tuple[tuple[int, float], ...] = ()
    banned: tuple[int, ...] = ()
    salt: str = ""
    tag: Tag | None = None

    @property
    def at_length(self) -> int:
        """Committed ids of the text."""
        return self.base + len(self.token_ids)


@dataclass(frozen=True)
class ProposeCall:
    """All rows of one round of one replica. `replica` names one life of one replica process."""

    replica: str
    call_no: int
    budget_ms: float
    rows: tuple[ProposeRow, ...]
    closed: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowReply:
    """The answer to one row.

    tokens, parents: the nodes of a tree of guesses (see `core.proposals.Proposal`).
    drafted_by, confidences, ranks: per node, layers of the sub-model that guessed it, its
    confidence, and its place among the guesses of its row. needs_from: with status NEEDS.
    """

    draft_session: str
    at_length: int
    status: RowStatus
    tokens: tuple[int, ...] = ()
    drafted_by: tuple[int, ...] = ()
    confidences: tuple[float, ...] = ()
    parents: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    needs_from: int = 0


@dataclass(frozen=True)
class ProposeReply:
    """The answer to one call; without rows if the call was older than the last seen."""

    call_no: int
    rows: tuple[RowReply, ...]


class Proposer(Protocol):
    """Whoever proposes to a target: the draft actor's client, or a script in tests."""

    def propose(self, call: ProposeCall, force: bool) -> ProposeReply | None:
        """The reply to `call`, or None if it missed its deadline or the draft is away.

        force: some row must be drafted whatever the circuit breaker says.
        """

    def available(self) -> bool:
        """Whether rows that are not forced should be sent now."""
