"""Draft sessions: the ids of a text, how far each layer group has computed them, and the cache."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, ItemsView, Sequence

from s2d_ray.engine.prefix_cache import Lender, PrefixCache
from s2d_ray.engine.protocol import EMPTY_DIGEST, ProposeRow, extend_digest
from s2d_ray.models.kv_pool import BLOCK, Copy, Run, RunAllocator

SessionKey = tuple[str, str]
"""(replica, draft session): replicas cannot reach each other's sessions."""


class DraftSession:
    """Ids held, and fill[g] = positions that layer group g has computed, non-increasing in g.

    Between fill[g + 1] and fill[g] the pre-norm hidden states of boundary g are kept in the
    session's slots. A rollback only lowers the fills: whatever lies above them is overwritten.
    """

    def __init__(self, num_groups: int, run: Run, now_s: float, salt: str = "") -> None:
        self.run = run
        self.salt = salt
        self.ids: list[int] = []
        self.num_committed = 0
        self.fill = [0] * num_groups
        self.last_used_s = now_s
        self.asked: ProposeRow | None = None
        """The last row, while what is held is its text and the answer to it."""
        self.lender: Lender | None = None
        self._digests = [EMPTY_DIGEST]

    def digest_at(self, length: int) -> int:
        """Digest of the first `length` ids held."""
        return self._digests[length]

    def start_from(self, token_ids: Sequence[int]) -> None:
        """Take in ids whose keys and states were copied, in every layer group."""
        self.append(token_ids)
        self.fill = [len(self.ids)] * len(self.fill)

    @property
    def num_lendable(self) -> int:
        """Committed ids that every layer group has computed."""
        return min(self.fill[-1], self.num_committed)

    def fork(self) -> DraftSession:
        """Another view of the same run, to draft on beside this one; the last id is run again."""
        fork = DraftSession(len(self.fill), self.run, self.last_used_s, self.salt)
        fork.ids = self.ids.copy()
        fork.fill = self.fill.copy()
        fork._digests = self._digests.copy()
        fork._run_last_again()
        return fork

    def commit(self, base: int, token_ids: Sequence[int]) -> None:
        """Make the held ids equal ids[:base] + token_ids, keeping the common prefix's work.

        The last position is always computed anew: its hidden state is the one to draft from.
        """
        length = base
        for token_id in token_ids:
            if length == len(self.ids) or self.ids[length] != token_id:
                break
            length += 1
        self.truncate(length)
        self.append(token_ids[length - base :])
        self.num_committed = len(self.ids)
        self._run_last_again()

    def _run_last_again(self) -> None:
        self.fill = [max(0, min(fill, len(self.ids) - 1)) for fill in self.fill]

    def truncate(self, length: int) -> None:
        """Forget ids from `length` on."""
        self.asked = None
        del self.ids[length:]
        del self._digests[length + 1 :]
        self.num_committed = min(self.num_committed, length)
        self.fill = [min(fill, length) for fill in self.fill]

    def append(self, token_ids: Sequence[int]) -> None:
        """Hold more ids, not yet computed."""
        for token_id in token_ids:
            self.ids.append(token_id)
            self._digests.append(extend_digest(self._digests[-1], (token_id,)))

    def debt(self, group: int) -> int:
        """Positions a group must run before it can score the last id."""
        return len(self.ids) - self.fill[group]


class SessionCache:
    """All draft sessions, least recently used first. Any of them may vanish at any time.

    What one has computed is lent to others, of whatever target: whole blocks of committed ids that
    every layer group has run, copied when a session is opened or warmed. So what becomes of a
    lender later is nothing to those who copied from it.
    """

    def __init__(self, allocator: RunAllocator, num_groups: int, counters: Counter[str]) -> None:
        self._fits = allocator.fits
        self._runs = PrefixCache(allocator, counters, enabled=True)
        self._num_groups = num_groups
        self._counters = counters
        self._sessions: OrderedDict[SessionKey, DraftSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def num_held_blocks(self) -> int:
        """Blocks of ended sessions, given up as soon as a session needs them."""
        return self._runs.num_held_blocks

    def get(self, key: SessionKey) -> DraftSession | None:
        """The session, if it is still there."""
        return self._sessions.get(key)

    def items(self) -> ItemsView[SessionKey, DraftSession]:
        """All sessions, least recently used first."""
        return self._sessions.items()

    def use(self, key: SessionKey, now_s: float) -> DraftSession | None:
        """The session, now the most recently used one."""
        session = self._sessions.get(key)
        if session is not None:
            session.last_used_s = now_s
            self._sessions.move_to_end(key)
        return session

    def open(
        self, key: SessionKey, row: ProposeRow, now_s: float, in_use: Collection[SessionKey]
    ) -> tuple[DraftSession, Copy] | None:
        """A session for a row that carries its whole text; None if those in use leave no room.

        Others are evicted for it. -> the session, and what to copy into its run before it is used.
        """
        if not self._fits(row.max_length):
            return None
        while (found := self._runs.reserve(row.max_length, row.token_ids, row.salt)) is None:
            oldest = next((other for other in self._sessions if other not in in_use), None)
            if oldest is None:
                return None
            self.drop(oldest)
            self._counters["evicted_sessions"] += 1
        run, copy = found
        session = DraftSession(self._num_groups, run, now_s, row.salt)
        session.start_from(row.token_ids[: copy.num_tokens])
        self._sessions[key] = session
        self._counters["opened_sessions"] += 1
        return session, copy

    def lend(self, session: DraftSession) -> None:
        """Let others copy what may be lent of a session now, and nothing else.

        To be called whenever its ids have changed, before anything is computed, and when every
        layer group has computed more of them.
        """
        num_lent = len(session.lender.ids) if session.lender else 0
        num_tokens = session.num_lendable // BLOCK * BLOCK
        if num_tokens == num_lent:
            return
        if session.lender is not None:
            self._runs.withdraw(session.lender)
        session.lender = self._runs.publish(session.run, session.ids[:num_tokens], session.salt)

    def borrow(self, session: DraftSession) -> Copy | None:
        """What to copy into a session's run now, because another has computed it meanwhile."""
        lender, num_common = self._runs.find(session.ids, session.salt)
        first = session.fill[-1]
        if lender is None or num_common <= first:
            return None
        session.fill = [max(fill, num_common) for fill in session.fill]
        self._counters["prefix_hits"] += 1
        self._counters["prefix_tokens"] += num_common - first
        return Copy(lender.run.start + first, session.run.start + first, num_common - first)

    def discard_all(self) -> None:
        """Forget all sessions, and lend nothing of what they computed."""
        for session in self._sessions.values():
            self._runs.discard(session.run, session.lender)
        self._sessions.clear()

    def drop(self, key: SessionKey) -> None:
        """Forget a session, if it is there; what it computed may be lent until it is in the way."""
        session = self._sessions.pop(key, None)
        if session is not None:
            lendable = session.ids[: session.num_lendable]
            self._runs.retire(session.run, lendable, session.salt, session.lender)

    def expire(self, oldest_s: float, in_use: Collection[SessionKey]) -> None:
        """Forget sessions last used before `oldest_s`."""
        for key, session in list(self._sessions.items()):
            if session.last_used_s < oldest_s and key not in in_use:
                self.drop(key)
                self._counters["expired_sessions"] += 1
