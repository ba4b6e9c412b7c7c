"""The optimiser: of many plans, those that commit most tokens per second. Pure.

Every plan of a grid is replayed over all traces, so the best one of the grid is found, whatever its
shape; plain decoding is always among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from operator import add
from random import Random

from s2d_ray.core.calibration import COLD, AcceptanceModel
from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel
from s2d_ray.core.goodput import PLAIN, Candidate, draft_toll, goodput
from s2d_ray.core.replay import Rounds, Trace, replay

ROWS = (1, 2, 4, 8, 16)
"""Texts that run together, for which the best plans are kept."""

KEPT = 2
"""Of the best plans for each number of texts."""

NEVER, ALWAYS = 0.0, 1.0
"""Exit thresholds under which no row goes deeper, or every one that is not certain."""


@dataclass(frozen=True)
class Grid:
    """What plans are tried. chances: go deeper below this P(accepted). trees: (width, depth).
    lookups: caps on tier 0; 0: without it."""

    lengths: tuple[int, ...]
    stops: tuple[float, ...]
    chances: tuple[float, ...]
    trees: tuple[tuple[int, int], ...] = ()
    lookups: tuple[int, ...] = (0, 10)

    def plans(self, exit_layers: Sequence[int], model: AcceptanceModel) -> list[Plan]:
        """Each plan once, plain decoding first."""
        shapes = [Plan((), max_proposal=0)]
        shapes += [
            plan
            for thresholds in self._thresholds(exit_layers, model)
            for length in self.lengths
            for plan in (
                *(Plan(thresholds, stop, length) for stop in self.stops),
                *(Plan(thresholds, 0.0, length, w, min(d, length)) for w, d in self.trees),
            )
        ]
        found = [_looking_up(plan, lookup) for plan in shapes for lookup in self.lookups]
        return list(dict.fromkeys([PLAIN.plan, *(each for each in found if not each.is_plain)]))

    def _thresholds(
        self, exit_layers: Sequence[int], model: AcceptanceModel
    ) -> Iterator[tuple[float, ...]]:
        """Thresholds on confidence that mean the same as those on P(accepted)."""
        values: list[list[float]] = []
        for layers in exit_layers[:-1]:
            known = model.find(layers, COLD, 0)
            at = [known.threshold_for(p) if known else p for p in self.chances]
            values.append(sorted({NEVER, ALWAYS, *at}))
        for combined in product(*values):
            # Behind an exit that no row leaves downwards, thresholds mean nothing.
            last = combined.index(NEVER) if NEVER in combined else len(combined)
            if not any(combined[last:]):
                yield combined


QUICK = Grid(lengths=(1, 2, 4), stops=(0.0, 0.3), chances=(0.5, 0.8))
WHOLE = Grid(
    lengths=(1, 2, 3, 4, 6, 8),
    stops=(0.0, 0.1, 0.3, 0.6),
    chances=(0.3, 0.5, 0.7, 0.9),
    trees=((2, 1), (2, 4)),
    lookups=(0, 4, 10, 20),
)


def _looking_up(plan: Plan, longest: int) -> Plan:
    """The plan with tier 0 up to so many guesses; 0: without it."""
    if longest == 0:
        return replace(plan, min_match=0, max_lookup=Plan.max_lookup)
    return replace(plan, min_match=Plan.min_match, max_lookup=longest)


@dataclass(frozen=True)
class Replayed:
    """A plan and its rounds, text by text."""

    plan: Plan
    texts: Sequence[Rounds]

    def candidate(self, texts: slice = slice(None)) -> Candidate:
        """What some of the texts say of it."""
        return reduce(add, self.texts[texts], Rounds()).candidate(self.plan)


def replay_all(
    plans: Iterable[Plan], traces: Sequence[Trace], max_debt: int, costs: CostModel
) -> Iterator[Replayed]:
    """Every plan over all texts; one with tier 0 under the toll that it has without."""
    without: dict[Plan, Replayed] = {}
    for plan in plans:
        bare = _looking_up(plan, 0)
        if bare not in without:
            without[bare] = Replayed(bare, replay(bare, traces, max_debt))
        if plan == bare:
            yield without[bare]
            continue
        if plan.max_proposal:
            toll = draft_toll(without[bare].candidate(), costs)
            plan = replace(plan, draft_toll=round(toll, 2))
        yield Replayed(plan, replay(plan, traces, max_debt))


def ranked(found: Sequence[Candidate], costs: CostModel, rows: int) -> list[Candidate]:
    """The best first; of equal ones the simpler, which stands earlier."""
    return sorted(found, key=lambda each: -goodput(each, costs, rows))


def worth_keeping(found: Sequence[Candidate], costs: CostModel) -> list[Candidate]:
    """The best for every number of texts, and plain decoding; in order for one text."""
    kept: dict[Plan, Candidate] = {}
    for rows in ROWS:
        kept |= {each.plan: each for each in ranked(found, costs, rows)[:KEPT]}
    kept |= {each.plan: each for each in found if each.is_plain}
    return ranked(list(kept.values()), costs, 1)


def held_out_gain(found: Sequence[Replayed], costs: CostModel, rows: int = 1) -> float:
    """Speed over plain decoding of the plan that one half of the texts chooses, on the other half.

    So what comes of trying many plans on the same texts is not in it; the mean of both ways.
    """
    gains = []
    for half in (0, 1):
        seen = [each.candidate(slice(half, None, 2)) for each in found]
        best = ranked(seen, costs, rows)[0].plan
        chosen = next(each for each in found if each.plan == best)
        unseen = chosen.candidate(slice(1 - half, None, 2))
        gains.append(goodput(unseen, costs, rows) / goodput(PLAIN, costs, rows))
    return sum(gains) / len(gains)


def interval(
    found: Replayed, costs: CostModel, rows: int = 1, draws: int = 200
) -> tuple[float, float]:
    """Where 95 % of a plan's speeds over plain decoding lie, texts being drawn anew with return."""
    random = Random(0)
    plain = goodput(PLAIN, costs, rows)
    gains = []
    for _ in range(draws):
        texts = random.choices(found.texts, k=len(found.texts))
        gains.append(
            goodput(reduce(add, texts, Rounds()).candidate(found.plan), costs, rows) / plain
        )
    gains.sort()
    return gains[draws // 40], gains[-1 - draws // 40]
