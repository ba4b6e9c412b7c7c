"""Tier 0 and the draft, by what they promise."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

from s2d_ray.core.cascade import Plan
from s2d_ray.core.lookup import SuffixIndex
from s2d_ray.core.proposals import Proposal
from s2d_ray.engine.messages import Mode
from s2d_ray.engine.tier0 import Tier0

IDS = (5, 6, 7, 8, 5, 6)


def sequence_of(taken: list[Proposal]) -> Any:
    """A text whose end has occurred before; it takes what it is given into `taken`."""
    return SimpleNamespace(
        plan=Plan((), 0.0, 2, min_match=2, max_lookup=2),
        request=SimpleNamespace(mode=Mode.AUTO, request_id="text"),
        ids=IDS,
        match=lambda: SuffixIndex(2).find(IDS),
        admissible=lambda proposal, longest: (proposal, (0, 1)),
        accept_proposal=lambda proposal, _: taken.append(proposal),
    )


def test_a_draft_that_was_good_keeps_tier_0_silent_only_while_it_can_be_asked() -> None:
    taken: list[Proposal] = []
    tier0, sequence = Tier0(Counter()), sequence_of(taken)
    for _ in range(5):
        tier0.learn(sequence, num_guesses=2, num_accepted=2)  # the draft's: tier 0 made none
    assert not tier0.propose(sequence, has_rival=True)
    assert tier0.propose(sequence, has_rival=False)
    assert [proposal.tokens for proposal in taken] == [(7, 8)]
