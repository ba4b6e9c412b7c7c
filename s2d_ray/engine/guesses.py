"""What became of a target's guesses: by who made them and where, and how well calibration fits.

Fed by the batch at each commit, read by whoever tells metrics, from another thread.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from s2d_ray.core.calibration import AcceptanceModel, CalibrationMap
from s2d_ray.core.proposals import Proposal
from s2d_ray.engine.messages import GenerateRequest

BINS = 10
"""Classes of P(accepted), of equal width, by which it is compared with what was accepted."""

REMEMBERED = 4_096
"""Guesses after which half of the memory is given up, so that the error is a recent one."""

MOST_MAPS = 1_024
"""Looked-up maps that are kept; temperatures are the clients' own."""

TIER_0 = 0
"""What tier 0 is called where sub-models are called by their layers."""

By = tuple[int, int]
"""(layers of the sub-model that guessed, or `TIER_0`; place in the proposal, from 0)."""


@dataclass(frozen=True)
class Origin:
    """Whose guess a node of a proposal is; see `protocol.RowReply`."""

    drafted_by: int | None = None
    confidence: float | None = None
    rank: int | None = None


@dataclass
class _Fit:
    """Of one sub-model. distances: by bin, sum of P minus guesses that were accepted."""

    num_guesses: float = 0.0
    distances: list[float] = field(default_factory=lambda: [0.0] * BINS)

    def add(self, chance: float, *, accepted: bool) -> None:
        self.num_guesses += 1
        self.distances[min(BINS - 1, int(chance * BINS))] += chance - accepted
        if self.num_guesses >= REMEMBERED:
            self.num_guesses /= 2
            self.distances = [each / 2 for each in self.distances]

    @property
    def error(self) -> float:
        return sum(map(abs, self.distances)) / self.num_guesses


class Guesses:
    """Counts of one replica, since its start. drafted, accepted: guesses, see `By`."""

    def __init__(self) -> None:
        self.drafted: Counter[By] = Counter()
        self.accepted: Counter[By] = Counter()
        self._fits: dict[int, _Fit] = {}
        self._models: Mapping[str, AcceptanceModel] = {}
        self._maps: dict[tuple[str, int, float, int], CalibrationMap | None] = {}

    def go_by(self, models: Mapping[str, AcceptanceModel]) -> None:
        """Compare with these calibrations, by class of task; the first serves other classes."""
        self._models, self._maps, self._fits = models, {}, {}

    def take(
        self,
        request: GenerateRequest,
        proposal: Proposal,
        origins: tuple[Origin, ...],
        path: tuple[int, ...],
        num_committed: int,
    ) -> None:
        """A verified proposal. path: accepted rows; num_committed: tokens of the round that count,
        for what lies behind an end does not.
        """
        depths = proposal.depths()
        for node, origin in enumerate(origins):
            if origin.drafted_by is None or origin.rank is None or origin.confidence is None:
                continue
            place = depths[node + 1] - 1
            self.drafted[origin.drafted_by, place] += 1
            parent, is_right = proposal.parents[node], node + 1 in path
            self.accepted[origin.drafted_by, place] += is_right and place < num_committed
            # The target's own draw has decided about those right behind what was accepted.
            if origin.rank == 0 and (parent == 0 or parent in path):
                chance = self._chance(request, origin.drafted_by, origin.confidence, place)
                fit = self._fits.setdefault(origin.drafted_by, _Fit())
                fit.add(chance, accepted=is_right)

    def errors(self) -> dict[int, float]:
        """By sub-model, mean distance of P(accepted), calibrated where there is a calibration, and
        the share of the latest guesses that were accepted.
        """
        return {by: fit.error for by, fit in sorted(dict(self._fits).items()) if fit.num_guesses}

    def _chance(
        self, request: GenerateRequest, drafted_by: int, confidence: float, place: int
    ) -> float:
        models = self._models
        if not models:
            return confidence
        key = request.task, drafted_by, request.sampling.temperature, place
        if key not in self._maps:
            if len(self._maps) >= MOST_MAPS:
                self._maps.clear()
            model = models.get(request.task) or next(iter(models.values()))
            self._maps[key] = model.find(*key[1:])
        found = self._maps[key]
        return confidence if found is None else found.at(confidence).chance
