"""Discrete events: a heap of times and what is to be done then."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Clock:
    """Virtual seconds. What is due at the same time happens in the order it was asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.num_events = 0
        self._num_asked = 0
        self._heap: list[tuple[float, int, Action]] = []

    def at(self, time_s: float, action: Action) -> None:
        """Do something then, which must not be in the past."""
        assert time_s >= self.now_s
        self._num_asked += 1
        heapq.heappush(self._heap, (time_s, self._num_asked, action))

    def every(self, period_s: float, action: Action) -> None:
        """Do something after each period, forever."""

        def again() -> None:
            action()
            self.at(self.now_s + period_s, again)

        self.at(self.now_s + period_s, again)

    def run(self, until_s: float) -> None:
        """Do all that is due until then, and stop at that time."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(heap)
            self.num_events += 1
            action()
        self.now_s = until_s
