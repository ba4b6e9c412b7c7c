"""The cascade rule (design D3): how deep a token climbs, and when a proposal ends."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from s2d_ray.core.cascade import Plan

probabilities = st.floats(0.0, 1.0)
thresholds = st.lists(probabilities, max_size=5).map(tuple)
confidence_rows = st.lists(probabilities, min_size=1, max_size=5)


def exit_of(plan: Plan, confidences: list[float]) -> int:
    """The sub-model that speaks, if sub-model i has confidences[i]."""
    submodel = 0
    while plan.goes_deeper(submodel, confidences[submodel], len(confidences)):
        submodel += 1
    return submodel


@given(confidence_rows, st.integers(0, 5))
def test_with_thresholds_of_zero_the_shallowest_always_speaks(
    confidences: list[float], num_thresholds: int
) -> None:
    """No confidence is below 0; a threshold that is not given counts as 0."""
    assert exit_of(Plan(exit_thresholds=(0.0,) * num_thresholds), confidences) == 0


@given(confidence_rows, st.integers(0, 3))
def test_with_thresholds_above_every_confidence_the_deepest_always_speaks(
    confidences: list[float], surplus: int
) -> None:
    """The other end of the range; a threshold of the deepest itself means nothing."""
    plan = Plan(exit_thresholds=(1.1,) * (len(confidences) - 1 + surplus))
    assert exit_of(plan, confidences) == len(confidences) - 1


@given(confidence_rows, thresholds, st.data())
def test_raising_a_threshold_never_makes_an_exit_shallower(
    confidences: list[float], given_thresholds: tuple[float, ...], data: st.DataObject
) -> None:
    """Thresholds buy depth monotonically, which is what a controller that shifts them relies on."""
    raised = tuple(data.draw(st.floats(threshold, 1.1)) for threshold in given_thresholds)
    low, high = Plan(exit_thresholds=given_thresholds), Plan(exit_thresholds=raised)
    assert exit_of(low, confidences) <= exit_of(high, confidences)


@given(confidence_rows, thresholds)
def test_the_exit_is_the_first_that_reaches_its_threshold(
    confidences: list[float], given_thresholds: tuple[float, ...]
) -> None:
    """The rule as a sentence, missing thresholds as 0 and the deepest as a last resort. At 1 there
    is no staying, not even for the certain: what an exit says is then never asked."""
    padded = (*given_thresholds, *(0.0,) * len(confidences))
    reaches = [
        submodel
        for submodel, confidence in enumerate(confidences[:-1])
        if confidence >= padded[submodel] and padded[submodel] < 1
    ]
    expected = min(reaches, default=len(confidences) - 1)
    assert exit_of(Plan(exit_thresholds=given_thresholds), confidences) == expected


@given(probabilities, probabilities)
def test_a_proposal_ends_below_the_stop_threshold_and_only_there(
    stop_threshold: float, path_confidence: float
) -> None:
    """At 0 it never ends early; a path exactly at the threshold goes on."""
    plan = Plan(stop_threshold=stop_threshold)
    assert plan.stops(path_confidence) == (path_confidence < stop_threshold)
    assert not replace(plan, stop_threshold=0.0).stops(path_confidence)
