"""What a plan is worth: committed tokens per second, from what replay saw and what work costs.

Stdlib only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel


@dataclass(frozen=True)
class DraftLevel:
    """What rounds ask of the draft for one level of their proposals: means over all rounds of one
    text, those included that end before it.

    shares: of rounds that run the layers up to an exit, by exit layer. positions: that these layers
    run, by exit layer; more than the share where a group catches up.
    """

    shares: Mapping[int, float]
    positions: Mapping[int, float]


@dataclass(frozen=True)
class Candidate:
    """A plan, and what a round of one text does under it.

    committed: tokens per round, the target's own included. nodes: share of rounds by the number of
    guesses that the target has to verify. levels: the draft's work. rounds: behind these figures.
    """

    plan: Plan
    committed: float = 1.0
    nodes: Mapping[int, float] = field(default_factory=lambda: {0: 1.0})
    levels: tuple[DraftLevel, ...] = ()
    rounds: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether it never speculates."""
        return self.plan.is_plain

    @property
    def proposed(self) -> float:
        """Guesses to verify, per round."""
        return sum(count * share for count, share in self.nodes.items())

    @property
    def asked(self) -> float:
        """Share of rounds that ask the draft; the others have none, or tier 0's guesses."""
        return max(self.levels[0].shares.values(), default=0.0) if self.levels else 0.0

    @property
    def draft_steps(self) -> dict[int, float]:
        """Draft steps per round by the exit that spoke."""
        steps: dict[int, float] = {}
        for level in self.levels:
            exits = sorted(level.shares)
            deeper = [*exits[1:], None]
            for exit_, next_ in zip(exits, deeper, strict=True):
                left = level.shares[exit_] - (0.0 if next_ is None else level.shares[next_])
                steps[exit_] = steps.get(exit_, 0.0) + left
        return steps


PLAIN = Candidate(Plan(exit_thresholds=(), max_proposal=0, min_match=0))
"""Plain decoding commits one token per row and step."""


def goodput(candidate: Candidate, costs: CostModel, rows: int) -> float:
    """Committed tokens per second of so many texts that run together under this plan."""
    return rows * candidate.committed / round_s(candidate, costs, rows)


def round_s(candidate: Candidate, costs: CostModel, rows: int) -> float:
    """Mean seconds of a round of so many texts: the draft's part, then the target's forward.

    Exact for one text, where costs are. Of several, all are taken to propose equally many guesses
    in a round, and to leave the draft independently of each other.
    """
    forward_s = sum(
        share * costs.forward(rows, 1 + count) for count, share in candidate.nodes.items()
    )
    return draft_s(candidate, costs, rows) + forward_s


def draft_s(candidate: Candidate, costs: CostModel, rows: int) -> float:
    """Mean seconds that a round of so many texts waits for its proposals."""
    steps_s = sum(_step_s(candidate.plan, level, costs, rows) for level in candidate.levels)
    return _some(candidate.asked, rows) * costs.hop_s + steps_s


def draft_toll(candidate: Candidate, costs: CostModel) -> float:
    """What one proposal of the draft costs a text alone, in target forwards of one token."""
    if not candidate.asked:
        return 0.0
    return draft_s(candidate, costs, 1) / candidate.asked / costs.forward(1, 1)


def _step_s(plan: Plan, level: DraftLevel, costs: CostModel, rows: int) -> float:
    """One step of the batch: a group of layers runs over the rows that go so deep, if any do, and
    its exit is scored, unless the plan passes it by."""
    seconds, above = 0.0, 0
    for submodel, layers in enumerate(exits := sorted(level.shares)):
        some = _some(level.shares[layers], rows)
        if some > 0:
            positions = rows * level.positions[layers] / some
            whole_s = costs.draft(layers, positions)
            seconds += some * (whole_s - (costs.draft(above, positions) if above else 0.0))
            if plan.always_goes_deeper(submodel, len(exits)):
                seconds -= some * costs.head(rows * level.shares[layers] / some)
        above = layers
    return seconds


def _some(share: float, rows: int) -> float:
    """P(at least one of so many rows), each with this probability."""
    return float(1.0 - (1.0 - min(1.0, share)) ** rows)
