"""When a draft earns its place beside a target. Pure: what was measured in, a verdict out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from s2d_ray.bench import spec_figures
from s2d_ray.bench.spec_figures import BASELINE, PEERS, Answered
from s2d_ray.report.noise import LEVEL, MIN_PAIRS, interval
from s2d_ray.report.parts import Block, Section, Table

JUDGED = "cascade"
"""The plan that is judged: the config's, as requests get it."""

MAX_CALIBRATION_ERROR = 0.1
"""Mean distance of calibrated P(accept) from what was accepted, over a target's maps."""


@dataclass(frozen=True)
class Criterion:
    """One condition. holds: None where too little was measured to say."""

    name: str
    holds: bool | None
    told: str


@dataclass(frozen=True)
class Verdict:
    """On one target. The draft earns its place if nothing fails and it is quicker beyond noise."""

    target: str
    speedup: float
    criteria: tuple[Criterion, ...]

    @property
    def _holds(self) -> dict[str, bool | None]:
        return {each.name: each.holds for each in self.criteria}

    @property
    def identical(self) -> bool:
        """No plan of ours wrote another text."""
        return self._holds["texts"] is True

    @property
    def earns(self) -> bool:
        """Texts and speed must be known to hold; the others must not be known to fail."""
        known = self.identical and self._holds["speed"] is True
        return known and False not in self._holds.values()

    @property
    def sentence(self) -> str:
        """The verdict in a line."""
        word = "earns its place" if self.earns else "does not earn its place"
        told = [each.told for each in self.criteria if self.earns or each.holds is not True]
        return f"{word}: {'; '.join(told)}"

    def to_json(self) -> dict[str, Any]:
        """As the last line has it."""
        return asdict(self) | {"earns": self.earns, "sentence": self.sentence}


def judge(
    target: str, answered: Sequence[Answered], errors: Mapping[str, Sequence[float]]
) -> Verdict:
    """answered: questions of this target. errors: of its calibrated maps, by class of task."""
    speedup = spec_figures.speedup(answered, JUDGED)
    criteria = (_texts(answered), _speed(answered), _groups(answered), _calibration(errors))
    return Verdict(target, round(speedup, 4), criteria)


def _texts(answered: Sequence[Answered]) -> Criterion:
    """Every plan of ours must have written the ids of plain decoding."""
    plans = [plan for plan in answered[0].answers if plan not in (BASELINE, *PEERS)]
    wrong = [p for p in plans if spec_figures.same(answered, p) < len(answered)]
    told = f"other texts under {', '.join(wrong)}" if wrong else "texts identical"
    return Criterion("texts", not wrong, told)


def _speed(answered: Sequence[Answered]) -> Criterion:
    """Quicker than plain decoding, in 95 % of draws of questions."""
    speedup = spec_figures.speedup(answered, JUDGED)
    if len(answered) < MIN_PAIRS:
        told = f"{speedup:.2f} × plain on {len(answered)} questions, too few to tell"
        return Criterion("speed", None, told)
    low, high = interval(_speeds(answered))
    told = f"{speedup:.2f} × plain ({low:.2f}–{high:.2f} in 95 % of draws of questions)"
    return Criterion("speed", low >= 1, told)


def _speeds(answered: Sequence[Answered]) -> list[tuple[float, float]]:
    return [(each.answers[JUDGED].speed, each.answers[BASELINE].speed) for each in answered]


def _groups(answered: Sequence[Answered]) -> Criterion:
    """No group slower than plain decoding beyond noise, all groups minded."""
    groups = spec_figures.by_group(answered)
    known = {name: of for name, of in groups.items() if len(of) >= MIN_PAIRS}
    slower = []
    for name, of in known.items():
        _, high = interval(_speeds(of), 1 - LEVEL / len(known))
        if high < 1:
            slower.append(f"{name} {spec_figures.speedup(of, JUDGED):.2f} × plain")
    if slower:
        return Criterion("groups", False, f"slower in {', '.join(slower)}")
    if not known:
        told = f"no group has the {MIN_PAIRS} questions that would tell whether it is slower"
        return Criterion("groups", None, told)
    return Criterion("groups", True, f"no group below 1 beyond noise ({', '.join(known)} asked)")


def _calibration(errors: Mapping[str, Sequence[float]]) -> Criterion:
    """Calibrated chances are near to what was accepted, on texts not learned from."""
    known = [error for each in errors.values() for error in each]
    if not known:
        return Criterion("calibration", None, "too few texts to tell how true P(accept) is")
    error = mean(known)
    told = f"calibrated P(accept) is off by {error:.2f}, {MAX_CALIBRATION_ERROR:g} being allowed"
    return Criterion("calibration", error <= MAX_CALIBRATION_ERROR, told)


def section(verdicts: Sequence[Verdict]) -> Section:
    """The first thing on the page."""
    text = (
        "A draft earns its place beside a target if all its texts are those of plain decoding, the "
        "config's plan is quicker beyond noise, no group of questions is slower beyond noise, and "
        f"calibrated chances are off by {MAX_CALIBRATION_ERROR:g} at most."
    )
    return Section("verdict", "Verdict", text, list(_blocks(verdicts)))


def _blocks(verdicts: Sequence[Verdict]) -> Iterator[Block]:
    words = {True: "holds", False: "fails", None: "cannot be told"}
    for each in verdicts:
        rows = tuple((one.name, words[one.holds], one.told) for one in each.criteria)
        tables = [Table(("criterion", "", "measured"), rows)]
        yield Block(f"{each.target}: {each.sentence}", "", (), tables)
