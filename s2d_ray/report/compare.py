"""`s2d bench compare A B`: which figures of two results of one kind changed beyond noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeGuard

from s2d_ray.bench import spec_figures
from s2d_ray.bench.spec_figures import BASELINE, Answered
from s2d_ray.errors import DataError
from s2d_ray.report import shapes
from s2d_ray.report.figures import Figure, figures_of
from s2d_ray.report.noise import LEVEL, MIN_PAIRS, Paired, chance, holm
from s2d_ray.report.sources import Source

HARDWARE = ("cpu", "gpu")
"""Lines of a card."""


@dataclass(frozen=True)
class Line:
    """One figure of both. chance: of such a distance without a change, all figures minded.

    verdict: better, worse, changed, as before, or why it cannot be told.
    """

    name: str
    before: float
    after: float
    ratio: float | None
    chance: float | None
    verdict: str
    ours: bool

    @property
    def is_worse(self) -> bool:
        """One of ours is worse, beyond noise."""
        return self.ours and self.verdict == "worse"


@dataclass(frozen=True)
class Comparison:
    """cards: lines of the cards that differ, both values. notes: what to mind."""

    kind: str
    lines: tuple[Line, ...]
    cards: dict[str, tuple[str, str]]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As the last line has it."""
        return asdict(self) | {"worse": [line.name for line in self.lines if line.is_worse]}


def compare(before: Source, after: Source) -> Comparison:
    """Raises DataError if they are of different kinds, or have no figure in common."""
    if before.kind != after.kind:
        raise DataError(
            f"{before.name} is a result of `{before.kind}` and {after.name} one of "
            f"`{after.kind}`; compare two of one kind"
        )
    cards = _differing(before, after)
    other_host = any(name in cards for name in HARDWARE)
    notes = list(_notes(before, after, other_host))
    before, after = _in_common(before, after)
    theirs = {figure.name: figure for figure in figures_of(after)}
    pairs = [(each, theirs[each.name]) for each in figures_of(before) if each.name in theirs]
    if not pairs:
        raise DataError(f"{before.name} and {after.name} have no figure in common")
    chances = [_chance(*pair, other_host) for pair in pairs]
    told = iter(holm([each for each in chances if _is_asked(each)]))
    lines = tuple(
        _line(*pair, next(told) if _is_asked(each) else each)
        for pair, each in zip(pairs, chances, strict=True)
    )
    notes += _too_few(pairs, sum(map(_is_asked, chances)))
    return Comparison(before.kind, lines, cards, tuple(notes))


def _chance(before: Figure, after: Figure, other_host: bool) -> float | str:
    """A chance, or why there is none."""
    if before.absolute and other_host:
        return "other hardware"
    if before.noise is None or after.noise is None:
        return "no spread"
    found = chance(before.noise, after.noise)
    if found is None:
        few = isinstance(before.noise, Paired)
        return f"fewer than {MIN_PAIRS} questions" if few else "other numbers of runs"
    return found


def _is_asked(found: float | str) -> TypeGuard[float]:
    """Whether a figure might have changed; without a difference there is none to be wrong in."""
    return isinstance(found, float) and found < 1


def _too_few(pairs: Sequence[tuple[Figure, Figure]], asked: int) -> Iterator[str]:
    """A note, if even one sign on all questions would be no news among so many figures."""
    numbers = [
        sum(key in right.noise.values for key in left.noise.values)
        for left, right in pairs
        if isinstance(left.noise, Paired) and isinstance(right.noise, Paired)
    ]
    if numbers and (min(numbers) < MIN_PAIRS or asked * 2 ** (1 - min(numbers)) >= LEVEL):
        yield (
            f"With {min(numbers)} questions in common and {asked} figures that differ, no change "
            "can be told from noise; answer more questions, or compare fewer plans."
        )


def _line(before: Figure, after: Figure, found: float | str) -> Line:
    ratio = round(after.value / before.value, 4) if before.value else None
    if isinstance(found, str):
        verdict = found
    elif found >= LEVEL:
        verdict = "as before"
    elif not before.better:
        verdict = "changed"
    else:
        verdict = "better" if (after.value - before.value) * before.better > 0 else "worse"
    return Line(
        before.name,
        before.value,
        after.value,
        ratio,
        round(found, 5) if isinstance(found, float) else None,
        verdict,
        before.ours,
    )


def _differing(before: Source, after: Source) -> dict[str, tuple[str, str]]:
    """Lines of the cards that are not the same; what only one of them has counts as "-"."""
    left, right = before.result.card, after.result.card
    return {
        name: (left.get(name, "-"), right.get(name, "-"))
        for name in dict.fromkeys((*left, *right))
        if left.get(name, "-") != right.get(name, "-")
    }


def _notes(before: Source, after: Source, other_host: bool) -> list[str]:
    notes = []
    if other_host:
        notes.append(
            "Other hardware, or not told: speeds are not judged, and ratios depend on it, too."
        )
    if isinstance(before.result, shapes.Spec | shapes.Sweep) and not (
        before.answers and after.answers
    ):
        notes.append("Without answers to single questions nothing is judged; name the folders.")
    return notes


def _in_common(before: Source, after: Source) -> tuple[Source, Source]:
    """Of two folders of `bench spec` the same questions under the same plans alone."""
    if not (before.answers and after.answers):
        return replace(before, answers=()), replace(after, answers=())
    if not isinstance(before.result, shapes.Spec):
        return before, after
    known = {_key(each) for each in before.answers} & {_key(each) for each in after.answers}
    return _part(before, known), _part(after, known)


def _key(each: Answered) -> tuple[str, int]:
    return each.target, each.question_id


def _part(source: Source, known: set[tuple[str, int]]) -> Source:
    answers = tuple(each for each in source.answers if _key(each) in known)
    targets = {}
    for name in dict.fromkeys(each.target for each in answers):
        of = [each for each in answers if each.target == name]
        plans = [plan for plan in of[0].answers if plan != BASELINE]
        targets[name] = spec_figures.target_figures(of, plans)
    if not targets:
        raise DataError(f"{source.name}: has no question that the other result has, too")
    return replace(source, result=shapes.Spec.model_validate({"targets": targets}), answers=answers)
