"""The circuit breaker between a target and the draft. Pure: the time is an argument."""

from __future__ import annotations

from enum import StrEnum


class Circuit(StrEnum):
    """Closed lets calls through; open does not; half-open lets one through to try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after some failures in a row, then tries again after a growing pause."""

    def __init__(
        self, max_failures: int = 3, first_pause_s: float = 0.5, longest_pause_s: float = 10.0
    ) -> None:
        self._max_failures = max_failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._num_failures = 0
        self._pause_s = first_pause_s
        self._open_until_s: float | None = None

    def state(self, now_s: float) -> Circuit:
        """The circuit at a time."""
        if self._open_until_s is None:
            return Circuit.CLOSED
        return Circuit.OPEN if now_s < self._open_until_s else Circuit.HALF_OPEN

    def succeeded(self) -> None:
        """A call was answered in time."""
        self._num_failures = 0
        self._pause_s = self._first_pause_s
        self._open_until_s = None

    def failed(self, now_s: float) -> None:
        """A call missed its deadline or raised. A failed trial doubles the pause."""
        self._num_failures += 1
        if self._open_until_s is not None:
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
        elif self._num_failures < self._max_failures:
            return
        self._open_until_s = now_s + self._pause_s
