"""From timed samples to the figures of a benchmark. Pure: no model, no clock, no printing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple


@dataclass(frozen=True)
class Written:
    """What a method wrote for one case. texts: the new ids, one tuple per prompt.

    rounds: decode steps of the target. levels: rounds by the number of drafted levels.
    accepted_by: accepted guesses by layers of the exit, 0 being tier 0. steps: draft steps by exit
    layer.
    """

    texts: tuple[tuple[int, ...], ...]
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0
    accepted_by: Mapping[int, int] = field(default_factory=dict)
    levels: Mapping[int, int] = field(default_factory=dict)
    steps: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One method on one case in one run, timed."""

    case: str
    method: str
    run: int
    seconds: float
    written: Written

    @property
    def num_tokens(self) -> int:
        """The one token counter: ids written behind the prompts, whoever wrote them."""
        return sum(map(len, self.written.texts))

    @property
    def speed(self) -> float:
        """Tokens per second of wall time, prompts included."""
        return self.num_tokens / self.seconds


class Spread(NamedTuple):
    """Median, smallest and largest of some values."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"

    @property
    def rounded(self) -> float:
        """The median as it goes into JSON."""
        return round(self.median, 4)

    @property
    def ends(self) -> list[float]:
        """Lowest and highest as they go into JSON."""
        return [round(self.low, 4), round(self.high, 4)]


def spread(values: Iterable[float]) -> Spread:
    """Raises ValueError if there are no values."""
    found = list(values)
    if not found:
        raise ValueError("no samples")
    return Spread(median(found), min(found), max(found))


def of(samples: Sequence[Sample], case: str, method: str) -> list[Sample]:
    """The samples of one method on one case, by run."""
    chosen = [each for each in samples if (each.case, each.method) == (case, method)]
    return sorted(chosen, key=lambda each: each.run)


def methods_of(samples: Sequence[Sample], case: str) -> list[str]:
    """The methods that wrote a case, in the order they first did."""
    return list(dict.fromkeys(each.method for each in samples if each.case == case))


def speeds(samples: Sequence[Sample], case: str, method: str) -> Spread:
    """Tokens per second of a method on a case over the runs."""
    return spread(each.speed for each in of(samples, case, method))


def ratio(samples: Sequence[Sample], case: str, method: str, baseline: str) -> Spread:
    """Speed of a method over a baseline's, run by run: neighbours in time share the noise."""
    pairs = zip(of(samples, case, method), of(samples, case, baseline), strict=True)
    return spread(mine.speed / theirs.speed for mine, theirs in pairs)


def acceptance(samples: Sequence[Sample], case: str, method: str) -> float:
    """Share of drafted guesses that were accepted; 0 where none were drafted."""
    chosen = of(samples, case, method)
    drafted = sum(each.written.drafted for each in chosen)
    return sum(each.written.accepted for each in chosen) / drafted if drafted else 0.0


def differing(samples: Sequence[Sample], methods: Collection[str], baseline: str) -> list[str]:
    """ "case method" of all of `methods` that wrote other ids than the baseline did in any run.

    The baseline is held to its own first run as well.
    """
    found = []
    for case in dict.fromkeys(each.case for each in samples):
        expected = of(samples, case, baseline)[0].written.texts
        for method in methods_of(samples, case):
            texts = [each.written.texts for each in of(samples, case, method)]
            if method in {*methods, baseline} and any(text != expected for text in texts):
                found.append(f"{case} {method}")
    return found
