"""Run-ahead: while nobody waits, the draft guesses on as if its last answers were accepted whole.

It lives beside committed state (design D6, D7): it drafts on a copy of a draft session's integers,
over the same run, and writes only what the session counts as not yet computed. So a session is the
same whether the draft ran ahead or not, and to give a run-ahead up is to forget it.

What is kept of a position is what the cascade said there: sub-model and best guesses. That depends
on the ids before it and on the row's plan, seed, temperature and hints (the noise is keyed by
position), not on where a proposal begins. Stop rule, length and widths do count from a proposal's
root, so they are applied anew when a later row takes the kept guesses.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from s2d_ray.engine.draft_rows import Drafted, Hints, Level
from s2d_ray.engine.draft_session import DraftSession, SessionCache, SessionKey
from s2d_ray.engine.protocol import ProposeRow


@dataclass
class RunAhead(Drafted):
    """One session's. The first guess is of the target's own token, the others of its next row."""

    base: DraftSession
    eos: frozenset[int]
    start: int  # position of the first guess
    levels: list[Level] = field(default_factory=list)
    path_confidence: float = 1.0
    done: bool = False

    def take(self, level: Level) -> None:
        """Keep a level and go on behind its best guess, or end where the next row would."""
        if level.held_back:  # what a later row would be held back from depends on its own debt
            self.done = True
            return
        plan, best = self.request.plan, level.guesses[0]
        if self.levels:
            self.path_confidence *= best.confidence
        self.levels.append(level)
        if plan.stops(self.path_confidence):
            self.done = True
            return
        self.session.append((best.token,))
        room = self.request.max_length - len(self.session.ids)
        self.done = len(self.levels) > plan.max_proposal or best.token in self.eos or room <= 0

    def levels_for(self, row: Drafted) -> list[Level]:
        """What the draft would guess behind a row that was just committed, as far as is known."""
        length = len(row.session.ids)
        fits = (
            self.base is row.session
            and length > self.start
            and self.session.ids[:length] == row.session.ids
            and _manner(self.request) == _manner(row.request)
        )
        return self.levels[length - self.start :] if fits else []


def _manner(request: ProposeRow) -> tuple[object, ...]:
    """All that a guess depends on besides the ids before it."""
    return (
        request.plan,
        request.seed,
        request.temperature,
        request.logit_bias,
        request.banned,
        request.salt,
    )


class RunAheads:
    """The run-ahead of every draft session: at most `max_proposal` + 1 positions each."""

    def __init__(
        self,
        sessions: SessionCache,
        eos: frozenset[int],
        counters: Counter[str],
        hints: Hints,
    ) -> None:
        self._sessions = sessions
        self._eos = eos
        self._counters = counters
        self._hints = hints
        self._ahead: dict[SessionKey, RunAhead] = {}

    def unfinished(self) -> list[RunAhead]:
        """Those with something left to guess. To be called, and they to be run, only when no row
        and no prefill waits."""
        for key in [key for key, ahead in self._ahead.items() if not self._lives(key, ahead)]:
            self.count(self._ahead.pop(key), 0)
        for key, session in self._sessions.items():
            if key not in self._ahead and self._goes_on(session):
                self._ahead[key] = self._begin(session)
        return [ahead for ahead in self._ahead.values() if not ahead.done]

    def end(self, key: SessionKey) -> RunAhead | None:
        """Take a session's run-ahead away; to be called before anything else becomes of it."""
        return self._ahead.pop(key, None)

    def count(self, ahead: RunAhead, num_used: int) -> None:
        """Tell how many guesses of an ended run-ahead became part of a proposal."""
        self._counters["run_ahead_hits"] += num_used
        self._counters["run_ahead_wasted"] += len(ahead.levels) - num_used

    def _begin(self, session: DraftSession) -> RunAhead:
        assert session.asked is not None
        hints = self._hints.of(session.asked)
        return RunAhead(session.fork(), session.asked, hints, session, self._eos, len(session.ids))

    def _goes_on(self, session: DraftSession) -> bool:
        """Whether there is anything to guess behind a session's last answer."""
        asked = session.asked
        return (
            asked is not None
            and asked.plan.max_proposal > 0
            and len(session.ids) < asked.max_length
            and session.ids[-1] not in self._eos
        )

    def _lives(self, key: SessionKey, ahead: RunAhead) -> bool:
        return self._sessions.get(key) is ahead.base
