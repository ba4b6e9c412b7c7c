"""The requests that wait at a ledger: by id, by deadline, and how many bytes their bodies hold."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from s2d_ray.policy.fair_queue import Ask

SLACK = 1_000
"""Deadlines of requests that left, kept at least this long, so that tidying up is seldom."""


class Waiting:
    """num_bytes: of all bodies together. What is asked costs no more for long queues."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._asks: dict[str, Ask] = {}
        self._deadlines: list[tuple[float, str]] = []  # a heap, also of some that left

    def __len__(self) -> int:
        return len(self._asks)

    def __iter__(self) -> Iterator[Ask]:
        return iter(self._asks.values())

    def get(self, ask_id: str) -> Ask | None:
        """The request of this id, if it waits."""
        return self._asks.get(ask_id)

    def add(self, ask: Ask) -> None:
        """One more."""
        self._asks[ask.id] = ask
        self.num_bytes += ask.num_bytes
        heapq.heappush(self._deadlines, (ask.deadline_s, ask.id))

    def remove(self, ask: Ask) -> None:
        """It no longer waits; its deadline stays in the heap until it comes up."""
        del self._asks[ask.id]
        self.num_bytes -= ask.num_bytes
        if len(self._deadlines) > 2 * len(self._asks) + SLACK:
            self._deadlines = [(each.deadline_s, each.id) for each in self]
            heapq.heapify(self._deadlines)

    def expired(self, now_s: float) -> list[Ask]:
        """Those whose deadlines have come, the earliest first. They are told once."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            ask = self._asks.get(heapq.heappop(self._deadlines)[1])
            if ask is not None and ask.deadline_s <= now_s:
                found.append(ask)
        return found
