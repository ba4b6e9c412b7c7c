"""Grants that are open, and the last ones that have ended: each begins once and ends once.

A grant that no router tells of for `LAPSE_S` has lapsed. One of another life, of an earlier ledger
or of a router itself, can be adopted, unless it has ended here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

LAPSE_S = 5.0

REMEMBERED = 2_000
"""Ids of closed grants, which routers may tell of once more where an answer was lost."""


@dataclass(frozen=True)
class Grant:
    """A request that may run. `life` names the ledger that granted it, or the router."""

    id: str
    tenant: str
    target: str
    tokens: int
    num_texts: int
    life: str


@dataclass
class _Open:
    grant: Grant
    renewed_s: float


class Grants:
    """Those of one ledger, and those it has adopted."""

    def __init__(self, life: str, paid: Iterable[str] = (), closed: Iterable[str] = ()) -> None:
        """paid: ids that an earlier ledger has charged. closed: ids that have ended there."""
        self._life = life
        self._paid = dict.fromkeys(paid)
        self._closed = dict.fromkeys(closed)
        self._open: dict[str, _Open] = {}  # those renewed longest ago come first
        self._running: Counter[str] = Counter()  # texts, by target

    def __len__(self) -> int:
        return len(self._open)

    def running(self, target: str) -> int:
        """Texts of a target that have not ended."""
        return self._running[target]

    def running_of(self, tenant: str) -> int:
        """Texts of a tenant that have not ended."""
        return sum(
            entry.grant.num_texts for entry in self._open.values() if entry.grant.tenant == tenant
        )

    def is_open(self, grant: Grant) -> bool:
        """Whether it has begun here, and not ended."""
        return grant.id in self._open

    def is_strange(self, grant: Grant) -> bool:
        """Whether it is of another life and not known here: it can be adopted."""
        known = grant.id in self._open or grant.id in self._closed
        return grant.life != self._life and not known

    def begin(self, grant: Grant, now_s: float) -> None:
        """One more."""
        self._open[grant.id] = _Open(grant, now_s)
        self._running[grant.target] += grant.num_texts

    def adopt(self, grant: Grant, now_s: float) -> bool:
        """Begin a strange one. -> whether it has been charged already"""
        self.begin(grant, now_s)
        is_paid = grant.id in self._paid
        self._paid.pop(grant.id, None)
        return is_paid

    def renew(self, grant: Grant, now_s: float) -> None:
        """A router tells of an open one."""
        entry = self._open.pop(grant.id)
        entry.renewed_s = now_s
        self._open[grant.id] = entry

    def lapsed(self, now_s: float) -> list[Grant]:
        """Those of which nobody has told for too long."""
        old = takewhile(lambda entry: now_s - entry.renewed_s > LAPSE_S, self._open.values())
        return [entry.grant for entry in old]

    def end(self, grant: Grant) -> None:
        """An open one is over."""
        begun = self._open.pop(grant.id).grant
        self._running[begun.target] -= begun.num_texts
        self._closed[grant.id] = None
        if len(self._closed) > REMEMBERED:
            del self._closed[next(iter(self._closed))]

    def paid(self) -> list[str]:
        """Ids that are charged and have not ended, the last ones."""
        return [*self._paid, *self._open][-REMEMBERED:]

    def closed(self) -> list[str]:
        """Ids of the last ones that ended."""
        return list(self._closed)
