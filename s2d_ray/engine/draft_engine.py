"""The draft engine: draft sessions as a cache, and one batch over the rows of all targets.

A state machine without threads, clocks or Ray: calls and times go in, replies come out. One `step`
drafts one token for every active row: all rows run the first layer group, those whose confidence
stays below their threshold go on, and each leaves at its own depth. Rows of other calls join
between steps.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from s2d_ray.core.coupling import perturbed_scores
from s2d_ray.engine.draft_session import DraftSession, SessionCache, SessionKey
from s2d_ray.engine.protocol import ProposeCall, ProposeReply, ProposeRow, RowReply, RowStatus
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Copy, KVPool

WARM_EVERY = 4
"""With active rows, one step in this many prefills instead of drafting."""

MAX_TREE_NODES = 64
"""A tree of this size grows on as a chain."""

MAX_REPLICAS = 4_096
"""Replica lives whose last call number is remembered."""


class Network(Protocol):
    """What the engine needs of a sorted draft; see `models.sorted_draft.DraftNetwork`."""

    exit_layers: tuple[int, ...]
    head_ids: Tensor
    pool: KVPool

    def run_group(
        self, group: int, token_ids: Sequence[int], segments: Sequence[Segment]
    ) -> Tensor: ...

    def exit_logits(self, submodel: int, hidden: Tensor) -> Tensor: ...

    def copy(self, copy: Copy) -> None: ...


@dataclass
class _Row:
    """One row being drafted."""

    key: SessionKey
    session: DraftSession
    request: ProposeRow
    deadline_s: float
    hints: Tensor | None = None  # [head_size], what the target will add to these scores
    tip: int = 0  # row of the spine's last node, 0 for the committed text
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    drafted_by: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    num_levels: int = 0
    path_confidence: float = 1.0
    done: bool = False

    @property
    def num_guesses(self) -> int:
        """Guesses wanted behind the tip; one once the tree is as large as a tree may be."""
        width = self.request.plan.width_at(self.num_levels)
        return width if len(self.tokens) + width <= MAX_TREE_NODES else 1

    def grow(self, guesses: Sequence[_Guess], drafted_by: int) -> None:
        """Hang guesses behind the tip; the first, likeliest one is the new tip."""
        tip = self.tip
        for rank, guess in enumerate(guesses):
            self.tokens.append(guess.token)
            self.parents.append(tip)
            self.drafted_by.append(drafted_by)
            self.confidences.append(guess.confidence)
            self.ranks.append(rank)
        self.tip = len(self.tokens) - len(guesses) + 1
        self.num_levels += 1

    def reply(self) -> RowReply:
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
class _Call:
    """One call whose rows are not all answered yet."""

    replica: str
    call_no: int
    answered: list[RowReply]
    rows: list[_Row]

    def reply(self) -> ProposeReply:
        return ProposeReply(self.call_no, (*self.answered, *(row.reply() for row in self.rows)))


@dataclass(frozen=True)
class _Guess:
    """One of a sub-model's best tokens for a row."""

    token: int
    confidence: float


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
    ) -> None:
        self._network = network
        self._num_groups = len(network.exit_layers)
        self._eos = frozenset(eos_token_ids)
        self._head_index = {int(i): index for index, i in enumerate(network.head_ids)}
        self._prefill_chunk = prefill_chunk
        self._max_debt = max_debt
        self._idle_s = idle_s
        self.counters: Counter[str] = Counter()
        self._sessions = SessionCache(network.pool.allocator, self._num_groups, self.counters)
        self._warming: deque[SessionKey] = deque()
        self._calls: list[_Call] = []
        self._last_call: dict[str, int] = {}
        self._step_cost_s = 0.0
        self._steps_since_warm = 0

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
        """Whether `step` would do anything."""
        return bool(self._calls or self._warming)

    def receive(self, call: ProposeCall, now_s: float) -> None:
        """Take a call in; its reply comes out of a later `step`, or of `finished` at once."""
        if call.call_no < self._last_call.get(call.replica, 0):
            self.counters["stale_calls"] += 1
            self._calls.append(_Call(call.replica, call.call_no, [], []))
            return
        self._last_call[call.replica] = call.call_no
        if len(self._last_call) > MAX_REPLICAS:
            self._last_call.pop(next(iter(self._last_call)))
        self._abandon_older(call.replica)
        for draft_session in call.closed:
            self._sessions.drop((call.replica, draft_session))
        admitted = _Call(call.replica, call.call_no, [], [])
        # Known from the first row on, so that a later row cannot evict an earlier one's session.
        self._calls.append(admitted)
        deadline_s = now_s + call.budget_ms / 1000.0
        for request in call.rows:
            outcome = self._admit(call.replica, request, deadline_s, now_s)
            if isinstance(outcome, _Row):
                admitted.rows.append(outcome)
            else:
                self.counters[f"rows_{outcome.status}"] += 1
                admitted.answered.append(outcome)

    def _abandon_older(self, replica: str) -> None:
        """End the rows of a replica's earlier calls: it has given them up."""
        for older in self._calls:
            if older.replica == replica:
                for row in older.rows:
                    row.done = True

    def step(self, now_s: float) -> None:
        """Draft one token for every active row, or prefill one chunk of a warming session.

        Prefill takes the steps without active rows, and every fourth one beside them.
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

    def note_step_cost(self, seconds: float) -> None:
        """Tell how long the last step took; recent steps weigh most."""
        self._step_cost_s = (
            seconds if not self._step_cost_s else (0.7 * self._step_cost_s + 0.3 * seconds)
        )

    def finished(self) -> list[tuple[str, ProposeReply]]:
        """(replica, reply) of every call whose rows are all answered; each is given out once."""
        done = [call for call in self._calls if all(row.done for row in call.rows)]
        self._calls = [call for call in self._calls if not all(row.done for row in call.rows)]
        return [(call.replica, call.reply()) for call in done]

    def expire(self, now_s: float) -> None:
        """Drop sessions unused for `idle_s`."""
        self._sessions.expire(now_s - self._idle_s, self._in_use())

    # Admission -----------------------------------------------------------------------------------

    def _admit(
        self, replica: str, request: ProposeRow, deadline_s: float, now_s: float
    ) -> _Row | RowReply:
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
        session.commit(request.base, request.token_ids)
        if session.digest_at(request.at_length) != request.digest:
            session.truncate(0)
            return self._answer(request, RowStatus.NEEDS)
        if session.debt(0) > self._prefill_chunk:
            if key not in self._warming:
                self._warming.append(key)
            return self._answer(request, RowStatus.WARMING)
        idle = request.plan.max_proposal == 0
        return _Row(key, session, request, deadline_s, hints=self._hints(request), done=idle)

    def _open(self, key: SessionKey, request: ProposeRow, now_s: float) -> DraftSession | None:
        opened = self._sessions.open(key, request, now_s, self._in_use())
        if opened is None:
            return None
        session, copy = opened
        if copy.num_tokens:
            self._network.copy(copy)
        return session

    def _hints(self, request: ProposeRow) -> Tensor | None:
        """The row's biases and bans on the trimmed vocabulary, None if it has none there."""
        addends = dict(request.logit_bias) | dict.fromkeys(request.banned, -torch.inf)
        known = {i: value for i, value in addends.items() if i in self._head_index}
        if not known:
            return None
        hints = torch.zeros(len(self._head_index), device=self._network.head_ids.device)
        hints[[self._head_index[i] for i in known]] = hints.new_tensor(list(known.values()))
        return hints

    @staticmethod
    def _answer(request: ProposeRow, status: RowStatus, needs_from: int = 0) -> RowReply:
        return RowReply(request.draft_session, request.at_length, status, needs_from=needs_from)

    def _in_use(self) -> set[SessionKey]:
        return {row.key for call in self._calls for row in call.rows if not row.done}

    # Work ----------------------------------------------------------------------------------------

    def _draft_step(self, rows: list[_Row]) -> None:
        self.counters["steps"] += 1
        self.counters["step_rows"] += len(rows)
        self.counters["steps_of_several_replicas"] += len({row.key[0] for row in rows}) > 1
        climbing = rows
        for submodel in range(self._num_groups):
            guesses = self._run_submodel(submodel, climbing)
            deeper = []
            for row, best in zip(climbing, guesses, strict=True):
                if self._goes_deeper(row, submodel, best[0]):
                    deeper.append(row)
                else:
                    self._take(row, submodel, best)
            climbing = deeper
            if not climbing:
                return

    def _run_submodel(self, submodel: int, rows: list[_Row]) -> list[list[_Guess]]:
        """Bring one layer group up to date for some rows and score their last positions."""
        segments, token_ids = [], []
        for row in rows:
            session = row.session
            first = session.fill[submodel]
            segments.append(Segment(session.run, first, len(session.ids) - first))
            token_ids += session.ids[first:]
            session.fill[submodel] = len(session.ids)
            if submodel > 0 and segments[-1].num_rows > 1:
                self.counters["caught_up_positions"] += segments[-1].num_rows - 1
        hidden = self._network.run_group(submodel, token_ids, segments)
        logits = self._network.exit_logits(submodel, hidden)
        return [self._guesses(row, scores) for row, scores in zip(rows, logits, strict=True)]

    def _guesses(self, row: _Row, logits: Tensor) -> list[_Guess]:
        """The likeliest tokens under the noise the target will draw with. logits [head_size].

        The k best of the perturbed scores keep a tree exact at any temperature (design D2).
        """
        scores = perturbed_scores(
            logits.float() if row.hints is None else logits.float() + row.hints,
            row.request.temperature,
            row.request.seed,
            len(row.session.ids),
            self._network.head_ids,
        )
        best = torch.topk(scores, min(row.num_guesses, len(scores)))
        tokens: list[int] = self._network.head_ids[best.indices].tolist()
        confidences: list[float] = torch.softmax(scores, dim=-1)[best.indices].tolist()
        return [_Guess(*pair) for pair in zip(tokens, confidences, strict=True)]

    def _goes_deeper(self, row: _Row, submodel: int, guess: _Guess) -> bool:
        if not row.request.plan.goes_deeper(submodel, guess.confidence, self._num_groups):
            return False
        if row.session.debt(submodel + 1) > self._max_debt:
            self.counters["rows_stopped_by_debt"] += 1
            if row.key not in self._warming:
                self._warming.append(row.key)
            return False
        return True

    def _take(self, row: _Row, submodel: int, guesses: list[_Guess]) -> None:
        """Append guesses to their row's tree and go on behind the best, or end the row."""
        plan, best = row.request.plan, guesses[0]
        row.path_confidence *= best.confidence
        if plan.stops(row.path_confidence):
            row.done = True
            return
        row.grow(guesses, self._network.exit_layers[submodel])
        row.session.append((best.token,))
        self.counters[f"drafted_by_{self._network.exit_layers[submodel]}"] += 1
        room = row.request.max_length - len(row.session.ids)
        row.done = row.num_levels >= plan.max_proposal or best.token in self._eos or room <= 0

    def _warm_step(self) -> None:
        """Run one chunk of one warming session through every layer group."""
        session = self._sessions.get(self._warming[0])
        if session is None:  # dropped while it waited
            self._warming.popleft()
            return
        self.counters["warm_steps"] += 1
        end = len(session.ids) - 1
        target = min(end, session.fill[-1] + self._prefill_chunk)
        for group in range(self._num_groups):
            first = session.fill[group]
            if target > first:
                segment = Segment(session.run, first, target - first)
                self._network.run_group(group, session.ids[first:target], [segment])
                session.fill[group] = target
        if session.fill[-1] >= end:
            self._warming.popleft()
