"""From traces to the acceptance model: how likely a guess of some confidence is accepted.

A guess counts at a depth only where all guesses of its exit before it were right, as in a proposal:
the accepted prefix and the first rejection, never what lies behind it. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from s2d_ray.core.calibration import (
    COLD,
    DEPTHS,
    AcceptanceModel,
    CalibrationMap,
    Sample,
    isotonic,
    mean_error,
)
from s2d_ray.core.lookup import Experience
from s2d_ray.core.replay import Trace

TIER0 = 0
"""What tier 0 is called where sub-models are called by their layers."""

LEAST = 20
"""A map of fewer samples says nothing."""


def fit(traces: Sequence[Trace], gram: int) -> AcceptanceModel:
    """The maps of all exits and of tier 0. gram: shortest match that tier 0 goes by."""
    maps = [
        _map(texts, layers, temperature, depth)
        for temperature in sorted({trace.temperature for trace in traces})
        for texts in [[trace for trace in traces if trace.temperature == temperature]]
        for layers in traces[0].exit_layers
        for depth in DEPTHS
    ]
    looked_up = [list(tier0_samples(trace, gram)) for trace in traces]
    maps.append(_fit(looked_up, TIER0, COLD, 0))
    return AcceptanceModel(tuple(each for each in maps if each is not None))


def _map(
    traces: Sequence[Trace], layers: int, temperature: float, depth: int
) -> CalibrationMap | None:
    exit_ = traces[0].exit_layers.index(layers)
    texts = [list(samples(trace, exit_, depth)) for trace in traces]
    return _fit(texts, layers, temperature, depth)


def _fit(
    texts: Sequence[list[Sample]], drafted_by: int, temperature: float, depth: int
) -> CalibrationMap | None:
    """A map of all texts; its error is that of maps of one half of them on the other half."""
    everything = [sample for text in texts for sample in text]
    if len(everything) < LEAST:
        return None
    calibrated: list[tuple[float, bool]] = []
    for half in (0, 1):
        known = [sample for text in texts[half::2] for sample in text]
        if known:
            of_half = CalibrationMap(drafted_by, temperature, depth, isotonic(known))
            calibrated += [
                (of_half.at(sample.confidence).chance, sample.accepted)
                for text in texts[1 - half :: 2]
                for sample in text
            ]
    return CalibrationMap(
        drafted_by,
        temperature,
        depth,
        isotonic(everything),
        error=mean_error(calibrated) if calibrated else None,
        raw=mean_error([(sample.confidence, sample.accepted) for sample in everything]),
    )


def samples(trace: Trace, exit_: int, depth: int) -> Iterator[Sample]:
    """One exit's guesses that can stand at a class of depths."""
    num_right = 0
    for spots in trace.spots:
        spot = spots[exit_]
        if num_right >= depth:
            yield Sample(spot.confidence, spot.rank == 0)
        num_right = num_right + 1 if spot.rank == 0 else 0


def tier0_samples(trace: Trace, gram: int) -> Iterator[Sample]:
    """Tier 0's first guesses, with the confidence that it would have had by then."""
    experience = Experience()
    for written in range(1, len(trace.output_ids)):
        found = trace.lookup(gram, written)
        if found is not None:
            match, guesses = found
            right = guesses[0] == trace.output_ids[written]
            yield Sample(experience.confidence(match), right)
            experience.learn(match, 1, int(right))
