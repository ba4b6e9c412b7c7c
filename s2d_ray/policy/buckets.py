"""Token buckets: so much a minute, taken at admission, what was not used given back at the end."""

from __future__ import annotations

import math
from dataclasses import dataclass

SECONDS = 60.0


@dataclass
class Bucket:
    """Holds up to `capacity` and refills by as much each minute.

    level: what is there at `at_s`; below 0 while a debt is paid off. Times are seconds of one
    clock; a clock that jumps back refills nothing. Over any window of w seconds what was taken,
    minus what was refunded, is at most capacity · (1 + w / 60).
    """

    capacity: int
    level: float
    at_s: float

    @classmethod
    def full(cls, capacity: int, now_s: float) -> Bucket:
        """A bucket from which nothing was taken yet."""
        return cls(capacity, float(capacity), now_s)

    def level_at(self, now_s: float) -> float:
        """What is there now; below 0 while a debt is paid off."""
        self._refill(now_s)
        return self.level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` can be taken: 0 if it can be now, infinity if it never can."""
        if amount > self.capacity:
            return math.inf
        self._refill(now_s)
        return max(0.0, amount - self.level) * SECONDS / self.capacity

    def take(self, amount: float, now_s: float) -> None:
        """Take `amount`. Raises ValueError if it is not there."""
        if self.wait_s(amount, now_s) > 0:
            raise ValueError(f"{amount} taken from a bucket that holds {self.level}")
        self.level -= amount

    def refund(self, amount: float, now_s: float) -> None:
        """Give back what was taken and not used; what does not fit any more is lost."""
        self._refill(now_s)
        self.level = min(float(self.capacity), self.level + amount)

    def owe(self, amount: float, now_s: float) -> None:
        """Take what was used already, whether it is there or not."""
        self._refill(now_s)
        self.level -= amount

    def resize(self, capacity: int, now_s: float) -> None:
        """Change the capacity; what was taken stays taken."""
        self._refill(now_s)
        self.level -= self.capacity - capacity
        self.capacity = capacity

    def _refill(self, now_s: float) -> None:
        gained = max(0.0, now_s - self.at_s) * self.capacity / SECONDS
        self.level = min(float(self.capacity), self.level + gained)
        self.at_s = max(self.at_s, now_s)
