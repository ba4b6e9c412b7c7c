"""The queue of one target: priority bands, round robin in tokens between tenants, deadlines.

Deficit round robin (Shreedhar and Varghese, SIGCOMM 1995). Tenants that wait stand in a ring. A
visit adds the tenant's quantum to its deficit, grants requests while the deficit covers them, and
ends the tenant's turn. Two things differ from the paper: a visit may be interrupted, since slots
become free one by one, and a tenant that may not run is passed over without losing its turn.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

QUANTUM_TOKENS = 64
"""Tokens that a tenant of weight 1 may be granted for each visit."""


@dataclass(frozen=True)
class Ask:
    """One request that wants to run.

    tokens: what it may take at most, prompt and output of all its texts. deadline_s: when it gives
    up waiting, on the ledger's clock. num_texts: sequences it will run at the same time.
    num_bytes: of its body, held somewhere while it waits.
    """

    id: str
    tenant: str
    target: str
    tokens: int
    deadline_s: float
    num_texts: int = 1
    num_bytes: int = 0
    arrived_s: float = 0.0


@dataclass
class _Line:
    """The waiting requests of one tenant, by deadline, and what it has saved up."""

    quantum: int
    deficit: int = 0
    in_visit: bool = False
    asks: list[Ask] = field(default_factory=list)


def quantum_of(weight: float) -> int:
    """Tokens a tenant of this weight may be granted for each visit."""
    return max(1, round(weight * QUANTUM_TOKENS))


class FairQueue:
    """Waiting requests of one target. A lower band goes first, whatever waits in higher ones."""

    def __init__(self) -> None:
        self._rings: dict[int, list[_Line]] = {}
        self._lines: dict[str, tuple[int, _Line]] = {}

    def __len__(self) -> int:
        return sum(len(line.asks) for _, line in self._lines.values())

    def __iter__(self) -> Iterator[Ask]:
        for _, line in self._lines.values():
            yield from line.asks

    def push(self, ask: Ask, band: int, weight: float) -> None:
        """Add a request; a tenant that has none waiting joins the ring of its band at its end."""
        if ask.tenant not in self._lines:
            line = _Line(quantum_of(weight))
            self._lines[ask.tenant] = (band, line)
            self._rings.setdefault(band, []).append(line)
        _, line = self._lines[ask.tenant]
        bisect.insort(line.asks, ask, key=lambda waiting: waiting.deadline_s)

    def head(self, may_run: Callable[[Ask], bool]) -> Ask | None:
        """The request whose turn it is, None if no tenant that waits may run; it stays here."""
        for band in sorted(self._rings):
            ask = _visit(self._rings[band], may_run)
            if ask is not None:
                return ask
        return None

    def grant(self, ask: Ask) -> None:
        """Take the request that `head` gave, and charge its tenant for it."""
        _, line = self._lines[ask.tenant]
        line.deficit -= ask.tokens
        self._take(ask)

    def drop(self, ask: Ask) -> None:
        """Take out a request that gave up waiting."""
        self._take(ask)
        if ask.tenant in self._lines:
            # Else a tenant could save up for a huge request, drop it, and send small ones.
            _, line = self._lines[ask.tenant]
            line.deficit = min(line.deficit, max(waiting.tokens for waiting in line.asks))

    def _take(self, ask: Ask) -> None:
        band, line = self._lines[ask.tenant]
        line.asks.remove(ask)
        if not line.asks:
            # Savings end with the line: who comes back starts at the end of the ring, with none.
            del self._lines[ask.tenant]
            self._rings[band] = [other for other in self._rings[band] if other is not line]
            if not self._rings[band]:
                del self._rings[band]


def _visit(ring: list[_Line], may_run: Callable[[Ask], bool]) -> Ask | None:
    """Go round until the deficit of a tenant that may run covers its first request."""
    place = 0
    while place < len(ring):
        line = ring[place]
        first = line.asks[0]
        if not may_run(first):
            place += 1
            continue
        if not line.in_visit:
            line.in_visit = True
            line.deficit += line.quantum
        if first.tokens <= line.deficit:
            return first
        line.in_visit = False
        ring.append(ring.pop(place))
    return None
