"""One run of chaos: faults in a random order beside streams, and the verdict on both."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from s2d_ray.serve.run_file import ProcessMark
from tests.chaos_faults import TOUCHES, Kind, NotNow, Part, Site
from tests.chaos_streams import Load, Served

LOOK_EVERY_S = 0.5
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 5.0
LONGEST_RECOVERY_S = 300.0
COUNT_EVERY_S = 5.0
TRIES = 10


@dataclass
class Fault:
    """One fault. Times are of `time.monotonic`; back_s: when all it had touched was there again.

    open: requests that were under way when it struck.
    """

    kind: Kind
    struck_s: float
    open: frozenset[int]
    back_s: float | None = None

    def took_router(self, begun_s: float, ended_s: float) -> bool:
        """Whether a request of that time may have gone through a router that was lost."""
        is_one = Part.ROUTERS in TOUCHES[self.kind]
        return is_one and self.struck_s <= ended_s and begun_s <= (self.back_s or ended_s)


@dataclass(frozen=True)
class Verdict:
    """What became of the claim."""

    num_texts: int
    wrong: Sequence[int]
    lost: Sequence[str]
    not_back: Sequence[str]
    num_retried: int
    num_refused: int

    @property
    def holds(self) -> bool:
        """Zero wrong texts, zero lost requests, and everything came back."""
        return not self.wrong and not self.lost and not self.not_back

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{self.num_texts} texts: {len(self.wrong)} wrong, {len(self.lost)} lost; "
            f"{self.num_retried} asked again since their router was lost, {self.num_refused} "
            "after a 503 before the first token",
            *self.lost,
        ]
        return lines + [f"{kind}: not everything came back" for kind in self.not_back]


def judge(done: Iterable[Served], faults: Sequence[Fault]) -> Verdict:
    """A request whose connection broke is lost too, unless a router was lost in its time."""
    served = list(done)
    lost = [f"request {each.number}: {each.lost}" for each in served if each.lost]
    for each in served:
        for broken_s, why in each.breaks:
            if not any(fault.took_router(each.begun_s, broken_s) for fault in faults):
                lost.append(f"request {each.number}: {why}, and no router was lost")
    return Verdict(
        num_texts=len(served),
        wrong=[each.number for each in served if each.is_wrong],
        lost=lost,
        not_back=[fault.kind.value for fault in faults if fault.back_s is None],
        num_retried=sum(bool(each.breaks) for each in served),
        num_refused=sum(bool(each.refusals) for each in served),
    )


class Chaos:
    """Strikes again and again, from the main thread: Ray starts raylets from no other one.

    `faults`: those so far.
    """

    def __init__(
        self, site: Site, load: Load, seed: int, report: Callable[[str], None] = print
    ) -> None:
        self._site = site
        self._load = load
        self._rng = random.Random(seed)
        self._report = report
        self._start_s = time.monotonic()
        self._lost: list[tuple[Fault, frozenset[ProcessMark]]] = []
        self._failovers: dict[str, float] = {}
        self._count_at_s = 0.0
        self.faults: list[Fault] = []

    @property
    def num_failovers(self) -> int:
        """Streams that another replica took over, as far as routers told before they were lost."""
        return round(sum(self._failovers.values()))

    def run(self, seconds: float, num_streams: int) -> None:
        """Whole rounds of all kinds, each in another order, while `seconds` last; then wait until
        everything is back, and for the last texts.
        """
        with ThreadPoolExecutor(1) as pool:
            streams = pool.submit(self._load.run, num_streams)
            try:
                while not self.faults or time.monotonic() - self._start_s < seconds:
                    self._one_round()
                self._look_on(lambda: not self._lost)
            finally:
                self._load.is_over = True
            streams.result()

    def _one_round(self) -> None:
        for kind in self._rng.sample(list(Kind), len(Kind)):
            self._await_turn(kind)
            if not self._strike(kind):
                self._say(f"{kind}: left out, it would take the last replica of something")

    def _await_turn(self, kind: Kind) -> None:
        """A pause, and until what the fault touches is whole."""
        at_s = time.monotonic() + self._rng.uniform(SHORTEST_PAUSE_S, LONGEST_PAUSE_S)
        self._look_on(lambda: time.monotonic() >= at_s and not self._touches_lost(kind))

    def _touches_lost(self, kind: Kind) -> bool:
        """Whether something that must be whole before this fault is not there again yet."""
        return any(TOUCHES[fault.kind] & TOUCHES[kind] for fault, _ in self._lost)

    def _strike(self, kind: Kind) -> bool:
        for _ in range(TRIES):
            fault = Fault(kind, time.monotonic(), frozenset(list(self._load.open)))
            try:
                lost = self._site.strike(kind, self._rng)
            except NotNow:
                time.sleep(LOOK_EVERY_S)
                continue
            self.faults.append(fault)
            self._lost.append((fault, lost))
            self._say(str(kind))
            return True
        return False

    def _look_on(self, until: Callable[[], bool]) -> None:
        """Note what comes back, and count failovers."""
        while not until():
            for fault, lost in list(self._lost):
                self._look(fault, lost)
            if time.monotonic() > self._count_at_s:
                for name, number in self._site.failovers().items():
                    self._failovers[name] = max(number, self._failovers.get(name, 0.0))
                self._count_at_s = time.monotonic() + COUNT_EVERY_S
            time.sleep(LOOK_EVERY_S)

    def _look(self, fault: Fault, lost: frozenset[ProcessMark]) -> None:
        passed_s = time.monotonic() - fault.struck_s
        if all(self._site.is_whole(part, lost) for part in TOUCHES[fault.kind]):
            fault.back_s = time.monotonic()
            self._say(f"{fault.kind}: back after {passed_s:.1f} s")
        elif passed_s < LONGEST_RECOVERY_S:
            return
        else:
            self._say(f"{fault.kind}: not back after {passed_s:.1f} s")
        self._lost.remove((fault, lost))

    def _say(self, line: str) -> None:
        passed_s = time.monotonic() - self._start_s
        self._report(f"{passed_s:6.1f} s  {line}; {len(self._load.done)} texts")


@dataclass(frozen=True)
class Recovery:
    """Seconds after the faults of one kind. first: until some text was whole. open: until all were
    that were under way. back: until all that was lost was there again.
    """

    kind: Kind
    num: int
    first: Sequence[float]
    open: Sequence[float]
    back: Sequence[float]


def recoveries(done: Iterable[Served], faults: Sequence[Fault]) -> list[Recovery]:
    """One for each kind that struck."""
    served = {each.number: each for each in done if not each.lost}
    ends_s = sorted(each.ended_s for each in served.values())
    found = []
    for kind in Kind:
        of_kind = [fault for fault in faults if fault.kind is kind]
        if not of_kind:
            continue
        first, under_way = [], []
        for fault in of_kind:
            first += [end_s - fault.struck_s for end_s in ends_s if end_s > fault.struck_s][:1]
            own = [served[number].ended_s for number in fault.open if number in served]
            under_way += [max(own) - fault.struck_s] if own else []
        back = [fault.back_s - fault.struck_s for fault in of_kind if fault.back_s is not None]
        found.append(Recovery(kind, len(of_kind), first, under_way, back))
    return found


def table(found: Iterable[Recovery]) -> list[str]:
    """Medians and longest, in seconds."""
    lines = [
        "| fault | times | first text after, s | open texts whole after, s | back after, s |",
        "|---|---|---|---|---|",
    ]
    for each in found:
        cells = (_middle_and_most(seconds) for seconds in (each.first, each.open, each.back))
        lines.append(f"| {each.kind} | {each.num} | {' | '.join(cells)} |")
    return lines


def _middle_and_most(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    return f"{statistics.median(seconds):.1f} (at most {max(seconds):.1f})"
