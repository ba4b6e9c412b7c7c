"""The cascade rule: how deep a drafted token climbs, and when a proposal ends.

Stdlib only, so that every layer can name a `Plan` without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_TREE_NODES = 64
"""A tree of this size grows on as a chain."""


@dataclass(frozen=True)
class Plan:
    """How one request is drafted.

    exit_thresholds: one per sub-model but the deepest; a row goes deeper while its confidence is
        below the threshold, at 1 whatever it is. Missing ones count as 0 (never go deeper), surplus
        ones are ignored.
    stop_threshold: the draft's proposal ends once the product of confidences along it is below
        this.
    max_proposal: cap on the depth of the draft's proposals; 0: it is not asked.
    tree_width: guesses per node of the proposal's spine; 1 is a chain.
    tree_depth: levels of the spine, from the root, that have more than one guess.
    min_match: tier 0 guesses where the last so many tokens occurred before; 0 switches it off.
    max_lookup: cap on tier 0's proposals, whose guesses cost their verification alone.
    draft_toll: what a proposal of the draft costs, in target forwards of one token; tier 0, which
        is free, may promise fewer tokens by so much and still be taken.
    """

    exit_thresholds: tuple[float, ...] = (0.5, 0.5)
    stop_threshold: float = 0.0
    max_proposal: int = 4
    tree_width: int = 1
    tree_depth: int = 32
    min_match: int = 3
    max_lookup: int = 10
    draft_toll: float = 0.5

    @property
    def longest(self) -> int:
        """Depth of the deepest proposal that may be made under it."""
        return max(self.max_proposal, self.max_lookup if self.min_match else 0)

    @property
    def is_plain(self) -> bool:
        """Whether nobody guesses under it: neither the draft nor tier 0."""
        return self.longest == 0

    def goes_deeper(self, submodel: int, confidence: float, num_submodels: int) -> bool:
        """Whether a row at `submodel` (0 = shallowest) must climb. The deepest always speaks."""
        threshold = self._threshold(submodel, num_submodels)
        return confidence < threshold or threshold >= 1.0

    def always_goes_deeper(self, submodel: int, num_submodels: int) -> bool:
        """Whether rows climb from `submodel` whatever it would say, so that nobody need ask it."""
        return self._threshold(submodel, num_submodels) >= 1.0

    def _threshold(self, submodel: int, num_submodels: int) -> float:
        if submodel >= num_submodels - 1 or submodel >= len(self.exit_thresholds):
            return 0.0
        return self.exit_thresholds[submodel]

    def width_at(self, level: int) -> int:
        """Guesses at a level of the spine, 0 being the one behind the root."""
        return self.tree_width if level < self.tree_depth else 1

    def stops(self, path_confidence: float) -> bool:
        """Whether the draft ends a proposal whose confidences multiply to `path_confidence`."""
        return path_confidence < self.stop_threshold
