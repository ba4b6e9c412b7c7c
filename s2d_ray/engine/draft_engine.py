"""The draft engine: draft sessions as a cache, and one batch over the rows of all targets.

A state machine without threads, clocks or Ray: calls and times go in, replies come out. One `step`
drafts one token for every active row: all rows run the first layer group, those whose confidence
stays below their threshold go on, and each leaves at its own depth. Rows of other calls join
between steps. While nobody waits it may run ahead (see `run_ahead.py`), step by step likewise.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection

from s2d_ray.engine.cascade_step import CascadeStep, Network
from s2d_ray.engine.draft_rows import Call, Hints, Level, Row
from s2d_ray.engine.draft_session import DraftSession, SessionCache, SessionKey
from s2d_ray.engine.protocol import ProposeCall, ProposeReply, ProposeRow, RowReply, RowStatus
from s2d_ray.engine.run_ahead import RunAhead, RunAheads

WARM_EVERY = 4
"""With active rows, one step in this many prefills instead of drafting."""

MAX_REPLICAS = 4_096
"""Replica lives whose last call number is remembered."""


class DraftEngine:
    """Sessions, active rows and counters of one draft."""

    def __init__(
        self,
        network: Network,
        eos_token_ids: Collection[int],
        *,
        prefill_chunk: int = 64,
        max_debt: int = 64,
        idle_s: float = 120.0,
        run_ahead: bool = False,
    ) -> None:
        self._network = network
        self._eos = frozenset(eos_token_ids)
        self._hints = Hints(network.head_ids)
        self._prefill_chunk = prefill_chunk
        self._max_debt = max_debt
        self._idle_s = idle_s
        self.counters: Counter[str] = Counter()
        num_groups = len(network.exit_layers)
        self._sessions = SessionCache(network.pool.allocator, num_groups, self.counters)
        self._cascade = CascadeStep(network, max_debt, self.counters)
        self._runs_ahead = run_ahead
        self._ahead = RunAheads(self._sessions, self._eos, self.counters, self._hints)
        self._warming: deque[SessionKey] = deque()
        self._calls: list[Call] = []
        self._last_call: dict[str, int] = {}
        self._step_cost_s = 0.0
        self._steps_since_warm = 0

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """Layers of each sub-model, the shallowest first."""
        return tuple(self._network.exit_layers)

    @property
    def num_sessions(self) -> int:
        """Draft sessions held now."""
        return len(self._sessions)

    @property
    def num_held_blocks(self) -> int:
        """Blocks of ended sessions that new ones may copy from, or take."""
        return self._sessions.num_held_blocks

    @property
    def has_work(self) -> bool:
        """Whether a row waits for its answer, or a session for its prefill."""
        return bool(self._calls or self._warming)

    @property
    def is_idle(self) -> bool:
        """Whether `step` would do nothing, not even run ahead."""
        return not (self.has_work or (self._runs_ahead and self._ahead.unfinished()))

    def receive(self, call: ProposeCall, now_s: float) -> None:
        """Take a call in; its reply comes out of a later `step`, or of `finished` at once."""
        if call.call_no < self._last_call.get(call.replica, 0):
            self.counters["stale_calls"] += 1
            self._calls.append(Call(call.replica, call.call_no))
            return
        self._last_call[call.replica] = call.call_no
        if len(self._last_call) > MAX_REPLICAS:
            self._last_call.pop(next(iter(self._last_call)))
        self._abandon_older(call.replica)
        for draft_session in call.closed:
            self._sessions.drop((call.replica, draft_session))
        admitted = Call(call.replica, call.call_no)
        # Known from the first row on, so that a later row cannot evict an earlier one's session.
        self._calls.append(admitted)
        deadline_s = now_s + call.budget_ms / 1000.0
        for request in call.rows:
            outcome = self._admit(call.replica, request, deadline_s, now_s)
            if isinstance(outcome, Row):
                admitted.rows.append(outcome)
            else:
                self.counters[f"rows_{outcome.status}"] += 1
                admitted.answered.append(outcome)

    def _abandon_older(self, replica: str) -> None:
        """End the rows of a replica's earlier calls: it has given them up."""
        for older in self._calls:
            if older.replica == replica:
                older.given_up = True
                for row in older.rows:
                    row.done = True

    def step(self, now_s: float) -> None:
        """Draft one token for every active row, or prefill one chunk of a warming session.

        Prefill takes the steps without active rows, and every fourth one beside them. With nothing
        of either to do and no call to answer, one token is drafted ahead for every draft session.
        """
        active = [row for call in self._calls for row in call.rows if not row.done]
        for row in active:
            # No step is started that could not be finished within the row's budget.
            row.done = row.done or now_s + self._step_cost_s > row.deadline_s
            self.counters["rows_out_of_budget"] += row.done
        active = [row for row in active if not row.done]
        if active and not (self._warming and self._steps_since_warm >= WARM_EVERY - 1):
            self._steps_since_warm += 1
            self._draft_step(active)
        elif self._warming:
            self._steps_since_warm = 0
            self._warm_step()
        elif self._runs_ahead and not self._calls:
            self._run_ahead_step(self._ahead.unfinished())

    def give_up(self) -> None:
        """After a step that failed: answer with what there is, and forget all draft sessions.

        How far they are computed is not known any more; targets send their ids again.
        """
        self.counters["failed_steps"] += 1
        for call in self._calls:
            for row in call.rows:
                row.done, row.held_back = True, False
        self._warming.clear()
        self._sessions.discard_all()

    def note_step_cost(self, seconds: float) -> None:
        """Tell how long the last step took; recent steps weigh most."""
        self._step_cost_s = (
            seconds if not self._step_cost_s else (0.7 * self._step_cost_s + 0.3 * seconds)
        )

    def finished(self) -> list[tuple[str, ProposeReply]]:
        """(replica, reply) of every call whose rows are all answered; each is given out once."""
        done = [call for call in self._calls if call.done]
        self._calls = [call for call in self._calls if not call.done]
        for row in (row for call in done for row in call.rows if row.held_back):
            self._warm(row.key)
        return [(call.replica, call.reply()) for call in done]

    def expire(self, now_s: float) -> None:
        """Drop sessions unused for `idle_s`."""
        self._sessions.expire(now_s - self._idle_s, self._in_use())

    # Admission -----------------------------------------------------------------------------------

    def _admit(
        self, replica: str, request: ProposeRow, deadline_s: float, now_s: float
    ) -> Row | RowReply:
        key = (replica, request.draft_session)
        session = self._sessions.use(key, now_s)
        if session is not None and request.max_length > session.run.num_slots:
            self._sessions.drop(key)
            session = None
        held = len(session.ids) if session else 0
        if request.base > held or request.at_length == 0:
            return self._answer(request, RowStatus.NEEDS, held)
        session = session or self._open(key, request, now_s)
        if session is None:
            return self._answer(request, RowStatus.BUSY)
        ahead = self._ahead.end(key)
        outcome = self._commit(key, session, request, deadline_s)
        if ahead is not None:
            used = self._replay(ahead, outcome) if isinstance(outcome, Row) else 0
            self._ahead.count(ahead, used)
        return outcome

    def _open(self, key: SessionKey, request: ProposeRow, now_s: float) -> DraftSession | None:
        opened = self._sessions.open(key, request, now_s, self._in_use())
        if opened is None:
            return None
        session, copy = opened
        if copy.num_tokens:
            self._network.copy(copy)
        return session

    def _commit(
        self, key: SessionKey, session: DraftSession, request: ProposeRow, deadline_s: float
    ) -> Row | RowReply:
        session.commit(request.base, request.token_ids)
        trusted = session.digest_at(request.at_length) == request.digest
        if not trusted:
            session.truncate(0)
        self._sessions.lend(session)
        if not trusted:
            return self._answer(request, RowStatus.NEEDS)
        session.asked = request
        if session.debt(0) > self._prefill_chunk:
            self._warm(key)
            return self._answer(request, RowStatus.WARMING)
        row = Row(session, request, self._hints.of(request), key, deadline_s)
        row.done = request.plan.max_proposal == 0
        return row

    def _replay(self, ahead: RunAhead, row: Row) -> int:
        """Take what the draft guessed ahead of this row, as the steps it saves would have done.

        -> how many guesses. The session counts as computed what those steps would have computed;
        so the deeper groups' debt, and all that it decides, is the same without run-ahead.
        """
        num_used = 0
        session = row.session
        for level in ahead.levels_for(row):
            climbed = range(1, level.submodel + 1)
            if row.done or any(session.debt(group) > self._max_debt for group in climbed):
                break
            for group in range(level.submodel + 1):
                session.fill[group] = len(session.ids)
            self._take(row, level)
            num_used += 1
        return num_used

    @staticmethod
    def _answer(request: ProposeRow, status: RowStatus, needs_from: int = 0) -> RowReply:
        return RowReply(request.draft_session, request.at_length, status, needs_from=needs_from)

    def _in_use(self) -> set[SessionKey]:
        """Sessions of the calls that still wait for their reply, of rows done early as well."""
        return {row.key for call in self._calls if not call.given_up for row in call.rows}

    def _warm(self, key: SessionKey) -> None:
        if key not in self._warming:
            self._warming.append(key)

    # Work ----------------------------------------------------------------------------------------

    def _draft_step(self, rows: list[Row]) -> None:
        self.counters["steps"] += 1
        self.counters["step_rows"] += len(rows)
        self.counters["steps_of_several_replicas"] += len({row.key[0] for row in rows}) > 1
        for row, level in self._cascade.climb(rows):
            self._take(row, level)

    def _run_ahead_step(self, aheads: list[RunAhead]) -> None:
        self.counters["run_ahead_steps"] += bool(aheads)
        for ahead, level in self._cascade.climb(aheads):
            ahead.take(level)

    def _take(self, row: Row, level: Level) -> None:
        self.counters["rows_stopped_by_debt"] += level.held_back
        exit_layer = self._network.exit_layers[level.submodel]
        if row.take(level, exit_layer, self._eos):
            self.counters[f"drafted_by_{exit_layer}"] += 1

    def _warm_step(self) -> None:
        """Run one chunk of one warming session through every layer group."""
        session = self._sessions.get(self._warming[0])
        if session is None:  # dropped while it waited
            self._warming.popleft()
            return
        self.counters["warm_steps"] += 1
        copy = self._sessions.borrow(session)
        if copy is not None:
            self._network.copy(copy)
        end = len(session.ids) - 1
        self._cascade.fill(session, min(end, session.fill[-1] + self._prefill_chunk))
        self._sessions.lend(session)
        if session.fill[-1] >= end:
            self._warming.popleft()
