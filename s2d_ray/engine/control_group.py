"""What speculation is worth on this replica: short windows of steps without it, placed at random.

The text does not change, so each text is its own control: a window is compared with the steps right
before it at the same load. Where the measured benefit is negative, speculation goes off by itself,
and windows of steps with it tell when it would pay again. Loads are judged apart, since what pays
for one text at a time may cost for many. Pure: no clock, no model, no Ray.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from statistics import NormalDist

WINDOW = 8
"""Counted steps of a window."""

BEFORE = 16
"""Counted steps before a window that it is compared with."""

PATIENCE = 8 * WINDOW
"""Steps of its load after which a window that did not come to an end is given up."""

OLDEST = 512
"""Steps of all loads after which a step is compared with nothing any more."""

FEWEST_PAIRS = 8
"""Windows before anything is concluded."""

MOST_PAIRS = 32
"""Windows that are remembered: the world changes."""

WANTED_WIDTH = 0.1
"""Of the interval, as a share of the benefit: with this width windows take their normal share."""

MOST_TIMES = 4.0
"""Windows take at most so many times their normal share of steps, and at least so small a part."""

LEVEL = 0.95
"""Of the interval."""


@dataclass(frozen=True)
class Benefit:
    """Committed tokens per second with speculation, as a multiple of those without it.

    low, high: the interval that holds the truth 95 times of 100. num_windows: it is made from.
    """

    ratio: float
    low: float
    high: float
    num_windows: int

    def __str__(self) -> str:
        return f"{self.ratio:.2f} times plain decoding ({self.low:.2f} to {self.high:.2f})"


@dataclass
class _Work:
    """What some steps have committed, and the time they took."""

    num_tokens: int = 0
    seconds: float = 0.0
    num_steps: int = 0

    def add(self, num_tokens: int, seconds: float) -> None:
        self.num_tokens += num_tokens
        self.seconds += seconds
        self.num_steps += 1


@dataclass(frozen=True)
class _Pair:
    """Steps with speculation beside steps without."""

    on: _Work
    off: _Work


@dataclass
class Comparison:
    """The windows of one load, and whether speculation is on there.

    verdict: what was measured when it last went on or off.
    """

    is_on: bool = True
    verdict: Benefit | None = None
    pairs: deque[_Pair] = field(default_factory=lambda: deque(maxlen=MOST_PAIRS))

    def take(self, window: _Work, before: _Work) -> bool:
        """One more window. -> whether speculation went on or off by it."""
        on, off = (before, window) if self.is_on else (window, before)
        if min(on.num_tokens, off.num_tokens) <= 0 or min(on.seconds, off.seconds) <= 0:
            return False
        self.pairs.append(_Pair(on, off))
        benefit = self.benefit()
        if benefit is None:
            return False
        if benefit.high < 1.0 if self.is_on else benefit.low > 1.0:
            self.is_on, self.verdict = not self.is_on, benefit
            self.pairs.clear()  # the next verdict comes from new windows
            return True
        return False

    def benefit(self) -> Benefit | None:
        """The measured benefit; None while there are too few windows.

        Sums over all windows, so that long steps weigh as much as they last; the interval by
        leaving out each window in turn (the jackknife), on a logarithmic scale.
        """
        rows = [_row(pair) for pair in tuple(self.pairs)]  # /health asks from another thread
        count = len(rows)
        if count < FEWEST_PAIRS:
            return None
        sums = [sum(column) for column in zip(*rows, strict=True)]
        whole = _log_ratio(sums)
        parts = [_log_ratio([a - b for a, b in zip(sums, row, strict=True)]) for row in rows]
        mean = sum(parts) / count
        error = math.sqrt((count - 1) / count * sum((part - mean) ** 2 for part in parts))
        reach = _quantile(count - 1) * error
        return Benefit(math.exp(whole), math.exp(whole - reach), math.exp(whole + reach), count)

    def share(self, normal: float) -> float:
        """Share of steps that windows shall take: more of them while the interval is wide."""
        benefit = self.benefit()
        if benefit is None:
            return MOST_TIMES * normal
        times = (math.log(benefit.high / benefit.low) / WANTED_WIDTH) ** 2
        return normal * min(MOST_TIMES, max(1 / MOST_TIMES, times))


class _Windows:
    """Of one load: its steps as they usually are, and the window that runs.

    Texts come and go, so a load's steps are those of a while with others between them. The window
    waits meanwhile.
    """

    def __init__(self, rng: random.Random) -> None:
        self.comparison = Comparison()
        self.is_open = False
        self._random = rng
        self._before: deque[tuple[int, int, float]] = deque(maxlen=BEFORE)
        self._window = _Work()
        self._num_tries = 0
        self._chance = 0.0

    def begin_step(self, number: int) -> None:
        """Open a window, perhaps, and give up one whose steps before it are too long ago.

        number: of the step, among those of all loads.
        """
        while self._before and self._before[0][0] <= number - OLDEST:
            self._before.popleft()
            self.is_open = False
        if not self.is_open and len(self._before) == BEFORE:
            self.is_open = self._random.random() < self._chance
            self._window, self._num_tries = _Work(), 0

    def end_step(
        self, number: int, num_tokens: int, seconds: float, *, is_warm: bool, share: float
    ) -> bool:
        """What the step came to. share: of steps that windows normally take. -> whether speculation
        went on or off by it."""
        if not self.is_open:
            self._before.append((number, num_tokens, seconds))
            if len(self._before) == BEFORE and not self._chance:
                self._chance = self._chance_at(share)
            return False
        self._num_tries += 1
        if is_warm or self.comparison.is_on:
            self._window.add(num_tokens, seconds)
        if self._window.num_steps == WINDOW:
            return self._close()
        if self._num_tries >= PATIENCE:
            self._forget()
        return False

    def _close(self) -> bool:
        before = _Work()
        for _, num_tokens, seconds in self._before:
            before.add(num_tokens, seconds)
        self._forget()
        return self.comparison.take(self._window, before)

    def _forget(self) -> None:
        """No window, and none before there are enough new steps to compare it with."""
        self.is_open = False
        self._before.clear()
        self._chance = 0.0

    def _chance_at(self, share: float) -> float:
        """Chance of a window to begin with a step, by which windows get their share of steps."""
        return 1.0 / max(1.0, WINDOW / self.comparison.share(share) - WINDOW - BEFORE)


class ControlGroup:
    """Decides before each step whether rows may speculate in it, and learns what it came to.

    share: of steps that windows normally take; 0: there are none, and nothing goes off.
    """

    def __init__(self, share: float, rng: random.Random) -> None:
        self.share = share
        self._random = rng
        self._by_load: dict[int, _Windows] = {}
        self._now = _Windows(rng)
        self._counts = False
        self._num_steps = 0

    def comparisons(self) -> dict[int, Comparison]:
        """By load, see `load_of`. May be asked from any thread."""
        return {load: each.comparison for load, each in tuple(self._by_load.items())}

    def verdict(self, num_rows: int) -> str:
        """What was found at such a load, in words."""
        comparison = self._by_load[load_of(num_rows)].comparison
        state = "on" if comparison.is_on else "off"
        return f"{state} with fewer than {load_of(num_rows)} texts: {comparison.verdict}"

    def off(self, num_rows: int) -> str:
        """The verdict, if speculation is off at such a load; else nothing."""
        found = self._by_load.get(load_of(num_rows))
        is_off = self.share > 0 and found is not None and not found.comparison.is_on
        return self.verdict(num_rows) if is_off else ""

    @property
    def in_window(self) -> bool:
        """Whether the step now is a window's."""
        return self._counts and self._now.is_open

    def allows(self, num_rows: int, *, measures: bool = True) -> bool:
        """Whether the next step may speculate; to be asked before each step that would.

        num_rows: texts that decode in it. measures: False if the step is no measure, and is of no
        window: a row insists on speculation, say. Without a share everything may.
        """
        load = load_of(num_rows)
        if load not in self._by_load:
            self._by_load[load] = _Windows(self._random)
        self._now = self._by_load[load]
        self._num_steps += 1
        self._counts = measures and self.share > 0
        if self._counts:
            self._now.begin_step(self._num_steps)
        return self.share == 0 or self._now.comparison.is_on != self.in_window

    def took(self, num_tokens: int, seconds: float, *, is_warm: bool = True) -> bool:
        """What the step just asked about came to. -> whether speculation went on or off by it.

        is_warm: whether the draft held all its rows. What it takes to begin again after a pause
        is no part of a window with speculation.
        """
        return self._counts and self._now.end_step(
            self._num_steps, num_tokens, seconds, is_warm=is_warm, share=self.share
        )


def _row(pair: _Pair) -> list[float]:
    return [pair.on.num_tokens, pair.on.seconds, pair.off.num_tokens, pair.off.seconds]


def _log_ratio(sums: list[float]) -> float:
    on_tokens, on_s, off_tokens, off_s = sums
    return math.log(on_tokens / on_s) - math.log(off_tokens / off_s)


def _quantile(degrees: int) -> float:
    """Student's t for the level, by its expansion around the normal law (error < 0.01 from 7 on).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def load_of(num_rows: int) -> int:
    """The smallest power of two above a number of rows: loads that are judged alike."""
    return 1 << num_rows.bit_length()
