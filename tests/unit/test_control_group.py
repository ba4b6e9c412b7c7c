"""The control group: its windows are few and at random, and its interval holds the truth."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from s2d_ray.engine.control_group import (
    BEFORE,
    FEWEST_PAIRS,
    OLDEST,
    PATIENCE,
    WINDOW,
    Benefit,
    Comparison,
    ControlGroup,
)

SHARE = 0.02


@dataclass
class Replica:
    """Steps whose times and accepted tokens are drawn from a law with a known benefit.

    accepted: mean accepted guesses of a row in a step with speculation, at most four of a chain.
    cost: time of such a step, as a multiple of a plain one. texts_end: every so many steps one
    does, and three steps, the last of them with a prompt, have a row less; 0: none ever does.
    """

    seed: int
    accepted: float
    cost: float
    num_rows: int = 4
    share: float = SHARE
    texts_end: int = 0
    off_steps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.group = ControlGroup(self.share, random.Random(self.seed + 1_000))
        self.num_steps = 0
        self.switches = 0
        # Mean of a chain of four guesses, each right with the same chance: solved by bisection.
        low, high = 0.0, 1.0
        for _ in range(50):
            self.chance = (low + high) / 2
            mean = sum(self.chance**depth for depth in range(1, 5))
            low, high = (self.chance, high) if mean < self.accepted else (low, self.chance)

    @property
    def truth(self) -> float:
        return (1.0 + self.accepted) / self.cost

    def step(self) -> None:
        after = self.num_steps % self.texts_end if self.texts_end else 3
        rows = self.num_rows - (after < 3)
        speculates = self.group.allows(rows)
        tokens = rows
        if speculates:
            tokens += sum(self._chain() for _ in range(rows))
        else:
            self.off_steps.append(self.num_steps)
        busy = math.exp(0.3 * self.rng.gauss(0.0, 1.0))
        seconds = 0.03 * busy * (self.cost if speculates else 1.0)
        if after != 2:  # a prompt is in it
            self.switches += self.group.took(tokens, seconds)
        self.num_steps += 1

    def _chain(self) -> int:
        length = 0
        while length < 4 and self.rng.random() < self.chance:
            length += 1
        return length

    def comparison(self) -> Comparison:
        return self.group.comparisons()[1 << self.num_rows.bit_length()]

    def benefit(self) -> Benefit | None:
        found = self.group.comparisons().get(1 << self.num_rows.bit_length())
        return found and found.benefit()

    def run_until_off(self) -> None:
        self.step()
        while self.comparison().is_on:
            self.step()


@pytest.mark.parametrize("texts_end", [0, 7])
def test_the_interval_holds_the_truth_for_90_of_100_seeds(texts_end: int) -> None:
    """Of texts that never end, and of such as leave no two windows' worth of steps in between."""
    held = 0
    for seed in range(100):
        replica = Replica(seed, accepted=1.2, cost=1.5, share=0.08, texts_end=texts_end)
        while (benefit := replica.benefit()) is None or benefit.num_windows < 16:
            replica.step()
        held += benefit.low <= replica.truth <= benefit.high
        assert benefit.low < benefit.ratio < benefit.high
    assert held >= 90


@pytest.mark.parametrize("seed", range(3))
def test_speculation_that_costs_goes_off_and_one_that_pays_stays_on(seed: int) -> None:
    harmful, useful = Replica(seed, 0.1, 1.6), Replica(seed, 1.5, 1.4)
    for _ in range(3_000):
        harmful.step()
        useful.step()
    assert not harmful.comparison().is_on
    assert useful.comparison().is_on
    assert useful.switches == 0


@pytest.mark.parametrize("seed", range(3))
def test_speculation_comes_back_once_it_pays_again(seed: int) -> None:
    replica = Replica(seed, 0.1, 1.6)
    replica.run_until_off()
    replica.chance, replica.cost = 0.7, 1.2
    for _ in range(4_000):
        replica.step()
    assert replica.comparison().is_on
    assert replica.switches == 2


def test_loads_are_judged_apart() -> None:
    replica = Replica(0, 1.5, 1.2)
    for load, accepted in ((1, 0.8), (16, 0.05)) * 40:
        replica.num_rows, replica.chance = load, accepted
        for _ in range(200):
            replica.step()
    verdicts = {load: each.is_on for load, each in replica.group.comparisons().items()}
    assert verdicts == {2: True, 32: False}


def test_windows_take_their_share_and_more_only_while_nothing_is_known() -> None:
    replica = Replica(3, accepted=1.2, cost=1.5)
    while replica.benefit() is None:
        replica.step()
    assert len(replica.off_steps) == FEWEST_PAIRS * WINDOW
    assert 0.04 < len(replica.off_steps) / replica.num_steps < 0.16
    replica.off_steps.clear()
    for _ in range(20_000):
        replica.step()
    assert 0.25 * SHARE < len(replica.off_steps) / 20_000 < 2 * SHARE


def test_windows_lie_at_random_places() -> None:
    """The steps between two of them have the law of a waiting time without memory."""
    replica = Replica(4, accepted=1.2, cost=1.5)
    replica.group = ControlGroup(0.02, random.Random(1))
    for _ in range(40_000):
        replica.step()
    starts = [
        a for b, a in zip([-2, *replica.off_steps], replica.off_steps, strict=False) if a > b + 1
    ]
    gaps = [b - a - WINDOW - BEFORE for a, b in zip(starts, starts[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert min(gaps) >= 0
    assert 0.5 < spread / mean < 2.0


def in_window(replica: Replica) -> ControlGroup:
    """Step until the next step is a window's, and stop before it is over."""
    while not replica.group.in_window:
        replica.step()
    return replica.group


def test_a_step_that_is_no_measure_is_of_no_window() -> None:
    """It may speculate, and what it came to is not counted; the window goes on behind it."""
    replica = Replica(5, accepted=1.2, cost=1.5)
    group = in_window(replica)
    for _ in range(3):
        assert group.allows(4, measures=False)
        assert not group.in_window
        group.took(4, 1e9)
    assert not group.allows(4)
    assert group.in_window
    while not replica.comparison().pairs:
        replica.step()
    (pair,) = replica.comparison().pairs
    assert pair.off.num_steps == WINDOW
    assert max(pair.on.seconds, pair.off.seconds) < 1e9


def test_a_window_waits_while_the_load_is_another() -> None:
    replica = Replica(6, accepted=1.2, cost=1.5)
    group = in_window(replica)
    for _ in range(BEFORE):
        assert group.allows(16)
        assert not group.in_window
        group.took(16, 0.03)
    assert not group.allows(4)
    assert group.in_window


def test_a_window_too_long_after_the_steps_before_it_counts_for_nothing() -> None:
    replica = Replica(7, accepted=1.2, cost=1.5)
    group = in_window(replica)
    for _ in range(OLDEST):
        group.allows(16, measures=False)
    assert group.allows(4)
    assert not group.in_window
    assert not replica.comparison().pairs


def test_without_a_share_everything_may_speculate_even_where_it_went_off() -> None:
    replica = Replica(0, 0.1, 1.6)
    replica.run_until_off()
    replica.group.share = 0.0
    assert all(replica.group.allows(4) for _ in range(100))


def test_what_the_draft_takes_to_begin_again_is_no_part_of_a_window_with_speculation() -> None:
    """Such a window is given up where the draft never gets ready."""
    replica = Replica(1, 0.1, 1.6)
    replica.run_until_off()
    group = replica.group
    while not group.in_window:
        group.allows(4)
        group.took(4, 0.03)
    for _ in range(PATIENCE):
        group.allows(4)
        group.took(4, 0.5, is_warm=False)
    assert not group.in_window
    assert not replica.comparison().pairs
