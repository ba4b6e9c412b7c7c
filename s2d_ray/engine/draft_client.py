"""A target's side of the draft call: deadlines, one outstanding call, the circuit breaker."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace

from s2d_ray.engine.breaker import Circuit, CircuitBreaker
from s2d_ray.engine.protocol import PROTOCOL_VERSION, ProposeCall, ProposeReply

logger = logging.getLogger(__name__)

Send = Callable[[ProposeCall], "Future[ProposeReply]"]

BUDGET_SHARE = 0.9
"""Share of a deadline that the draft may spend; the rest is for the way there and back."""


@dataclass(frozen=True)
class _Link:
    send: Send
    epoch: int


class DraftClient:
    """A `Proposer` over some way of sending calls. It is told which draft lives: `connect`.

    `connect` and `disconnect` may come from any thread; the rest belongs to the target's loop.
    """

    def __init__(
        self,
        deadline_s: float,
        force_deadline_s: float,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self._deadline_s = deadline_s
        self._force_deadline_s = force_deadline_s
        self._breaker = breaker or CircuitBreaker()
        self._link: _Link | None = None
        self._outstanding: Future[ProposeReply] | None = None
        self._seen_epoch: int | None = None
        self._foreign_epoch: int | None = None
        self.counters: Counter[str] = Counter()

    def connect(self, send: Send, epoch: int, protocol_version: int = PROTOCOL_VERSION) -> None:
        """Use the draft that lives in `epoch`; one of another protocol is counted, not asked."""
        if protocol_version != PROTOCOL_VERSION:
            self.disconnect()
            if epoch != self._foreign_epoch:
                self._foreign_epoch = epoch
                self.counters["foreign_drafts"] += 1
                logger.error(
                    "the draft speaks protocol %d, this target %d: texts are decoded plainly",
                    protocol_version,
                    PROTOCOL_VERSION,
                )
        elif self._link is None or self._link.epoch != epoch:
            self._link = _Link(send, epoch)

    def disconnect(self) -> None:
        """There is no draft now."""
        self._link = None

    @property
    def circuit(self) -> Circuit:
        """The state shown in /health: open without a draft, closed towards one not yet asked."""
        link = self._link
        if link is None:
            return Circuit.OPEN
        if link.epoch != self._seen_epoch:
            return Circuit.CLOSED
        return self._breaker.state(time.monotonic())

    def available(self) -> bool:
        """Whether a call made now could be answered in time."""
        self._meet_new_draft()
        return self._link is not None and self.circuit is not Circuit.OPEN and not self._is_late()

    def propose(self, call: ProposeCall, force: bool) -> ProposeReply | None:
        """Send one call and wait for its deadline. None: decode plainly in this round."""
        self._meet_new_draft()
        link = self._link
        wait_s = self._force_deadline_s if force else self._deadline_s
        deadline_s = time.monotonic() + wait_s
        if link is None or not self._settle_late(deadline_s if force else 0.0):
            self.counters["calls_not_sent"] += 1
            return None
        wait_s = max(0.0, deadline_s - time.monotonic())
        started_s = time.monotonic()
        try:
            self._outstanding = link.send(replace(call, budget_ms=1000.0 * BUDGET_SHARE * wait_s))
            reply = self._outstanding.result(timeout=wait_s)
        except FutureTimeoutError:
            self.counters["calls_late"] += 1
            self._breaker.failed(time.monotonic())
            return None
        except Exception:  # the draft died; its manager makes another
            self._outstanding = None
            self.counters["calls_failed"] += 1
            self._breaker.failed(time.monotonic())
            return None
        self._outstanding = None
        self._breaker.succeeded()
        self.counters["calls_answered"] += 1
        self.counters["call_microseconds"] += round(1e6 * (time.monotonic() - started_s))
        return reply

    def _meet_new_draft(self) -> None:
        """A new epoch starts with a clean record."""
        link = self._link
        if link is not None and link.epoch != self._seen_epoch:
            self._seen_epoch = link.epoch
            self._outstanding = None
            self._breaker.succeeded()

    def _is_late(self) -> bool:
        return self._outstanding is not None and not self._outstanding.done()

    def _settle_late(self, until_s: float) -> bool:
        """Whether no earlier call is outstanding, waiting for it if there is time."""
        if self._is_late():
            assert self._outstanding is not None
            wait([self._outstanding], timeout=max(0.0, until_s - time.monotonic()))
            if self._is_late():
                return False
        self._outstanding = None
        return True
