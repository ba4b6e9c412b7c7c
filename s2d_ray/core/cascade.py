"""The cascade rule: how deep a drafted token climbs, and when a proposal ends.

Stdlib only, so that every layer can name a `Plan` without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How one request is drafted.

    exit_thresholds: one per sub-model but the deepest; a row goes deeper while its confidence is
        below the threshold. Missing ones count as 0 (never go deeper), surplus ones are ignored.
    stop_threshold: the proposal ends once the product of confidences along it is below this.
    max_proposal: cap on drafted tokens per round; 0 means "do not speculate".
    """

    exit_thresholds: tuple[float, ...] = (0.5, 0.5)
    stop_threshold: float = 0.0
    max_proposal: int = 4

    def goes_deeper(self, submodel: int, confidence: float, num_submodels: int) -> bool:
        """Whether a row at `submodel` (0 = shallowest) must climb. The deepest always speaks."""
        if submodel >= num_submodels - 1 or submodel >= len(self.exit_thresholds):
            return False
        return confidence < self.exit_thresholds[submodel]

    def stops(self, path_confidence: float) -> bool:
        """Whether a proposal whose confidences multiply to `path_confidence` ends here."""
        return path_confidence < self.stop_threshold
