"""Proposers that follow a script: oracles that know the text, and adversaries that abuse it.

A script maps a propose call to a reply, None, or an exception it raises. `Scripted` is the proposer
a target engine sees; `Memory` rebuilds the committed ids that the rows of the calls carry.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.protocol import ProposeCall, ProposeReply, ProposeRow, RowReply, RowStatus

Script = Callable[[ProposeCall], ProposeReply | None]
RowScript = Callable[[ProposeRow, Sequence[int]], RowReply | None]
"""A row and the ids committed so far -> the answer; None leaves the row out of the reply."""

DRAFTED_BY = 4


class Scripted:
    """A `Proposer` whose replies come from a script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.calls: list[ProposeCall] = []
        self.is_available = True

    def propose(self, call: ProposeCall, force: bool) -> ProposeReply | None:
        self.calls.append(call)
        return self._script(call)

    def available(self) -> bool:
        return self.is_available


class Memory:
    """Committed ids per draft session, as a draft would learn them from the calls."""

    def __init__(self) -> None:
        self._held: dict[str, list[int]] = {}

    def take(self, row: ProposeRow) -> list[int]:
        held = self._held.get(row.draft_session, [])
        assert 0 <= row.base <= len(held), "a target may only leave out what it was told is held"
        self._held[row.draft_session] = [*held[: row.base], *row.token_ids]
        return self._held[row.draft_session]


def chain(tokens: Sequence[int]) -> dict[str, Any]:
    """The fields of a reply row whose nodes are a chain."""
    count = len(tokens)
    return {
        "tokens": tuple(tokens),
        "drafted_by": (DRAFTED_BY,) * count,
        "confidences": (0.5,) * count,
        "parents": tuple(range(count)),
        "ranks": (0,) * count,
    }


def ok(row: ProposeRow, tokens: Sequence[int], **changes: Any) -> RowReply:
    """A well-formed answer that proposes a chain of `tokens`."""
    reply = RowReply(row.draft_session, row.at_length, RowStatus.OK, **chain(tokens))
    return replace(reply, **changes)


def by_row(answer: RowScript) -> Script:
    """The script that answers every row by itself."""
    memory = Memory()

    def script(call: ProposeCall) -> ProposeReply:
        replies = [answer(row, memory.take(row)) for row in call.rows]
        return ProposeReply(call.call_no, tuple(reply for reply in replies if reply is not None))

    return script


class Oracle:
    """Replays known texts, each token wrong with some probability.

    texts: prompt + plain completion of every draft session, by request id.
    """

    def __init__(
        self,
        texts: Mapping[str, Sequence[int]],
        vocab_size: int,
        error_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._texts = texts
        self._vocab_size = vocab_size
        self._error_rate = error_rate
        self._random = random.Random(seed)
        self.errors: Counter[bool] = Counter()

    def truth(self, row: ProposeRow, committed: Sequence[int], count: int) -> list[int]:
        """What the plain run wrote next."""
        text = self._texts[row.draft_session]
        assert list(committed) == list(text[: row.at_length]), "the text left the plain run"
        return list(text[row.at_length : row.at_length + count])

    def __call__(self, row: ProposeRow, committed: Sequence[int]) -> RowReply:
        tokens = self.truth(row, committed, row.plan.max_proposal)
        return ok(row, [self._perhaps_wrong(token) for token in tokens])

    def _perhaps_wrong(self, token: int) -> int:
        wrong = self._random.random() < self._error_rate
        self.errors[wrong] += 1
        return (
            (token + 1 + self._random.randrange(self._vocab_size - 1)) % self._vocab_size
            if (wrong)
            else token
        )


class Forest(Oracle):
    """Answers with random trees that hold the right text on some branch, seldom on the spine."""

    def __call__(self, row: ProposeRow, committed: Sequence[int]) -> RowReply:
        rng = self._random
        tokens: list[int] = []
        parents: list[int] = []
        tip = 0
        for token in self.truth(row, committed, row.plan.max_proposal):
            behind = [tip, *rng.sample(range(len(tokens) + 1), min(2, len(tokens) + 1))]
            wanted = [
                (tip, token),
                *((parent, rng.randrange(self._vocab_size)) for parent in behind),
            ]
            rng.shuffle(wanted)
            for parent, guess in wanted:
                if (parent, guess) not in zip(parents, tokens, strict=True):
                    tokens.append(guess)
                    parents.append(parent)
            nodes = zip(parents, tokens, strict=True)
            tip = 1 + next(node for node, pair in enumerate(nodes) if pair == (tip, token))
            if rng.random() < self._error_rate:
                break
        return ok(row, tokens, parents=tuple(parents))


def adversaries(oracle: Oracle, vocab_size: int, eos: int) -> dict[str, Script]:
    """Scripts that break the protocol or tempt the target, by name. Each is good for one run."""

    def told(row: ProposeRow, committed: Sequence[int], count: int = 8) -> list[int]:
        return oracle.truth(row, committed, count)

    rows: dict[str, RowScript] = {
        "end of text mid-chain": lambda row, ids: ok(row, [*told(row, ids, 2), eos, *[3] * 4]),
        "end of text first": lambda row, ids: ok(row, [eos, *told(row, ids, 3)]),
        "one token over and over": lambda row, ids: ok(row, [ids[-1]] * 8),
        "a negative id behind right ones": lambda row, ids: ok(row, [*told(row, ids, 2), -1]),
        "an id beyond the vocabulary": lambda row, ids: ok(row, [*told(row, ids, 2), vocab_size]),
        "an id of 70 bits": lambda row, ids: ok(row, [1 << 70]),
        "the right text far beyond the cap": lambda row, ids: ok(row, told(row, ids, 500)),
        "a thousand tokens": lambda row, ids: ok(row, [5] * 1_000),
        "no sub-models named": lambda row, ids: ok(row, told(row, ids), drafted_by=()),
        "confidences missing": lambda row, ids: ok(row, told(row, ids), confidences=(0.5,)),
        "an empty proposal": lambda row, ids: ok(row, []),
        "meant for one token earlier": lambda row, ids: ok(
            row, told(row, ids), at_length=row.at_length - 1
        ),
        "meant for one token later": lambda row, ids: ok(
            row, told(row, ids)[1:], at_length=row.at_length + 1
        ),
        "unknown draft session": lambda row, ids: ok(row, told(row, ids), draft_session="nobody"),
        "needs everything, always": lambda row, ids: ok(row, [], status=RowStatus.NEEDS),
        "needs what lies ahead": lambda row, ids: ok(
            row, [], status=RowStatus.NEEDS, needs_from=row.at_length + 1_000
        ),
        "needs from a negative position": lambda row, ids: ok(
            row, [], status=RowStatus.NEEDS, needs_from=-7
        ),
        "warming with tokens": lambda row, ids: ok(row, [9, 9], status=RowStatus.WARMING),
        "busy with tokens": lambda row, ids: ok(row, [9, 9], status=RowStatus.BUSY),
        "parents missing": lambda row, ids: ok(row, told(row, ids), parents=()),
        "a node behind a later one": lambda row, ids: ok(row, [1, 2, 3], parents=(0, 2, 1)),
        "two equal siblings": lambda row, ids: ok(row, [1, 1], parents=(0, 0)),
        "ranks missing": lambda row, ids: ok(row, told(row, ids), ranks=(0,)),
        "silent about the row": lambda row, ids: None,
    }
    scripts = {name: by_row(answer) for name, answer in rows.items()}
    right = by_row(lambda row, ids: ok(row, told(row, ids)))
    return {
        **scripts,
        "no reply": lambda call: None,
        "the call before's number": _renumbered(right, -1),
        "the next call's number": _renumbered(right, 1),
        "the reply to the call before": _one_late(oracle),
        "every row twice, wrong ones second": _doubled(oracle, wrong_first=False),
        "every row twice, wrong ones first": _doubled(oracle, wrong_first=True),
        "rows of neighbours exchanged": _exchanged(oracle),
    }


def _renumbered(script: Script, shift: int) -> Script:
    def changed(call: ProposeCall) -> ProposeReply | None:
        reply = script(call)
        return reply and replace(reply, call_no=reply.call_no + shift)

    return changed


def _one_late(oracle: Oracle) -> Script:
    """Every call is answered with the rows of the one before, under the present number."""
    prompt = by_row(oracle)
    kept: list[ProposeReply | None] = [None]

    def late(call: ProposeCall) -> ProposeReply | None:
        before, kept[0] = kept[0], prompt(call)
        return before and replace(before, call_no=call.call_no)

    return late


def _doubled(oracle: Oracle, wrong_first: bool) -> Script:
    prompt = by_row(oracle)

    def doubled(call: ProposeCall) -> ProposeReply | None:
        reply = prompt(call)
        assert reply is not None
        wrong = tuple(replace(row, tokens=(7,) * len(row.tokens)) for row in reply.rows)
        rows = (*wrong, *reply.rows) if wrong_first else (*reply.rows, *wrong)
        return replace(reply, rows=rows)

    return doubled


def _exchanged(oracle: Oracle) -> Script:
    """Tokens of each row under the name and length of the next one."""
    prompt = by_row(oracle)

    def exchanged(call: ProposeCall) -> ProposeReply | None:
        reply = prompt(call)
        assert reply is not None
        tokens = [row.tokens for row in reply.rows]
        moved = [*tokens[1:], *tokens[:1]]
        rows = [replace(row, **chain(t)) for row, t in zip(reply.rows, moved, strict=True)]
        return replace(reply, rows=tuple(rows))

    return exchanged


def chaos(scripts: Mapping[str, Script], seed: int) -> Script:
    """Each call goes to one of several scripts at random, and every script hears every call."""
    rng = random.Random(seed)
    names = sorted(scripts)

    def script(call: ProposeCall) -> ProposeReply | None:
        whole = replace(call)
        replies = {name: scripts[name](whole) for name in names}
        return replies[rng.choice(names)]

    return script


def engine_script(engine: DraftEngine) -> Script:
    """A real draft engine without thread and clock: every call is answered at once."""

    def script(call: ProposeCall) -> ProposeReply | None:
        engine.receive(replace(call, budget_ms=1e9), now_s=0.0)
        replies: list[ProposeReply] = []
        while engine.has_work:
            engine.step(now_s=0.0)
            replies += [reply for _, reply in engine.finished()]
        return replies[-1]

    return script
