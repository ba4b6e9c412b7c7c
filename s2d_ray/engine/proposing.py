"""Where a target's proposals come from: tier 0, or a call of the draft and its reply.

Like the batch that it serves it knows no thread, no clock and no Ray.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from s2d_ray.core.proposals import Proposal
from s2d_ray.engine.guesses import Origin
from s2d_ray.engine.messages import Mode
from s2d_ray.engine.protocol import ProposeCall, ProposeReply, RowReply, RowStatus
from s2d_ray.engine.sequence import Sequence
from s2d_ray.engine.tier0 import Tier0

MAX_NODES = 1_024
"""A reply row with more nodes than this is not looked at."""

MAX_CLOSED = 1_024
"""Ended sessions remembered for the draft; it forgets idle ones by itself."""


class Proposing:
    """Gives sequences their proposals. counters: the replica's; vocab_size: the target's ids."""

    def __init__(self, replica: str, vocab_size: int, counters: Counter[str]) -> None:
        self._replica = replica
        self._vocab_size = vocab_size
        self._counters = counters
        self._tier0 = Tier0(counters)
        self._asked: dict[str, Sequence] = {}
        self._known: set[str] = set()
        self._closed: deque[str] = deque(maxlen=MAX_CLOSED)
        self._call_no = 0

    @property
    def has_closed_sessions(self) -> bool:
        """Whether the draft has not been told yet that some sessions ended."""
        return bool(self._closed)

    def ask(self, running: Iterable[Sequence], draft_available: bool) -> ProposeCall | None:
        """The call for this round's proposals; None if nobody wants one from the draft.

        Rows that tier 0 serves do not ask; the draft gets their ids with a later call. Without an
        available draft only forced rows ask, and closed sessions wait for a later call.
        """
        self._asked = {}
        for sequence in running:
            sequence.asked, sequence.status = False, None
            may_ask = draft_available or sequence.request.mode is Mode.FORCE
            asks = may_ask and sequence.plan.max_proposal > 0
            serves = sequence.wants_proposal and self._tier0.propose(sequence, has_rival=asks)
            if sequence.wants_proposal and not serves and asks:
                sequence.asked = True
                self._asked[sequence.request.request_id] = sequence
        self._known.update(self._asked)
        if not self._asked and not (self._closed and draft_available):
            return None
        self._call_no += 1
        self._counters["draft_calls"] += 1
        rows = tuple(sequence.propose_row() for sequence in self._asked.values())
        closed = tuple(self._closed)
        self._closed.clear()
        # The loop's proposer knows its deadlines; the budget is filled in there.
        return ProposeCall(self._replica, self._call_no, 0.0, rows, closed)

    @property
    def asked_forced(self) -> bool:
        """Whether the call just made carries a forced row."""
        return any(s.request.mode is Mode.FORCE for s in self._asked.values())

    def take_reply(self, reply: ProposeReply | None) -> None:
        """Take what the draft answered; anything unusable means plain decoding this round."""
        if reply is None:
            self._counters["draft_misses"] += 1
            for sequence in self._asked.values():
                sequence.tally.miss()
        elif reply.call_no != self._call_no:
            self._counters["late_replies"] += 1
        else:
            for row in reply.rows:
                self._take_row(row)
        self._asked = {}

    def _take_row(self, row: RowReply) -> None:
        sequence = self._asked.pop(row.draft_session, None)
        if sequence is None or row.at_length != len(sequence.ids):
            self._counters["stale_rows"] += 1
            return
        self._counters[f"rows_{row.status}"] += 1
        sequence.status = row.status
        if row.status is RowStatus.NEEDS:
            sequence.draft_base = max(0, min(row.needs_from, len(sequence.ids)))
        elif row.status in (RowStatus.OK, RowStatus.WARMING):
            sequence.draft_base = len(sequence.ids)
        if row.status is RowStatus.OK and row.tokens:
            self._take_proposal(row, sequence)

    def _take_proposal(self, row: RowReply, sequence: Sequence) -> None:
        """Take what may be committed of a row's tree; nothing if it is not a tree of ids."""
        nodes = [row.tokens, row.parents, row.drafted_by, row.confidences, row.ranks]
        legal = all(0 <= token < self._vocab_size for token in row.tokens)
        try:
            if not legal or len({*map(len, nodes)}) != 1 or len(row.tokens) > MAX_NODES:
                raise ValueError("not a tree of this target's ids")
            whole = Proposal(row.tokens, row.parents)
        except ValueError:
            self._counters["illegal_rows"] += 1
            return
        proposal, kept = sequence.admissible(whole, sequence.plan.max_proposal)
        if proposal.tokens:
            origins = tuple(
                Origin(row.drafted_by[node], row.confidences[node], row.ranks[node])
                for node in kept
            )
            sequence.accept_proposal(proposal, origins)
            self._counters["proposals"] += 1
            self._counters["tree_proposals"] += proposal != Proposal.chain(proposal.tokens)

    def learn(self, sequence: Sequence, num_guesses: int, num_accepted: int) -> None:
        """Take in how the proposal of the round that was just committed did."""
        self._tier0.learn(sequence, num_guesses, num_accepted)

    def pause(self, sequence: Sequence) -> None:
        """A sequence lost its proposal, and runs again later."""
        self._tier0.forget(sequence)

    def close(self, sequence: Sequence) -> None:
        """A sequence has ended; a later call tells the draft, if it was ever asked about it."""
        name = sequence.request.request_id
        self._asked.pop(name, None)
        self._tier0.forget(sequence)
        if name in self._known:
            self._known.remove(name)
            self._closed.append(name)
