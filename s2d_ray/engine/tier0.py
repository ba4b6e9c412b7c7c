"""Tier 0 in a target's batch: proposals from a sequence's own past, instead of asking the draft."""

from __future__ import annotations

from collections import Counter

from s2d_ray.core.lookup import Experience, Match, num_guesses
from s2d_ray.core.proposals import Proposal
from s2d_ray.engine.guesses import TIER_0, Origin
from s2d_ray.engine.messages import Mode
from s2d_ray.engine.sequence import Sequence


class Tier0:
    """Chooses between tier 0 and the draft, per sequence and round, by tokens for the time.

    A forced sequence always asks the draft. What the draft costs is the plan's `draft_toll`, not a
    clock: the same text under the same plan is decoded in the same rounds, as replay has them.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._experience = Experience()
        self._matches: dict[str, Match] = {}

    def propose(self, sequence: Sequence, *, has_rival: bool) -> bool:
        """Give a sequence that wants one a proposal from its own past; False if the draft may.

        has_rival: whether the draft could be asked; if not, what it did lately does not count.
        """
        plan = sequence.plan
        match = sequence.match() if sequence.request.mode is Mode.AUTO else None
        if match is None:
            return False
        confidence = self._experience.confidence(match)
        count = num_guesses(confidence, plan.max_lookup)
        if count == 0:
            return False
        if has_rival and not self._experience.prefers(confidence, count, plan.draft_toll):
            return False
        guesses = match.guess(sequence.ids, count)
        proposal, kept = sequence.admissible(Proposal.chain(guesses), plan.max_lookup)
        if not kept:
            return False
        sequence.accept_proposal(proposal, (Origin(TIER_0, confidence, 0),) * len(kept))
        self._matches[sequence.request.request_id] = match
        self._counters["tier0_proposals"] += 1
        self._counters["tier0_drafted"] += len(kept)
        return True

    def learn(self, sequence: Sequence, num_guesses: int, num_accepted: int) -> None:
        """Take in how the proposal of the round that was just committed did."""
        match = self._matches.pop(sequence.request.request_id, None)
        if match is not None:
            self._experience.learn(match, num_guesses, num_accepted)
            self._counters["tier0_accepted"] += num_accepted
        elif num_guesses:
            self._experience.learn_draft(num_accepted)

    def forget(self, sequence: Sequence) -> None:
        """A sequence has ended."""
        self._matches.pop(sequence.request.request_id, None)
