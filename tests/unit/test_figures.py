"""Figures of the benchmark out of canned samples and costs."""

from __future__ import annotations

import math

import pytest

from s2d_ray.bench import figures
from s2d_ray.bench.figures import Sample, Written
from s2d_ray.bench.ideal import ceiling, ideal_seconds
from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel, Provenance

TEXT = ((1, 2, 3, 4), (5, 6))


def sample(
    method: str, run: int, seconds: float, case: str = "greedy", **written: object
) -> Sample:
    fields = {"texts": TEXT, **written}
    return Sample(case, method, run, seconds, Written(**fields))  # type: ignore[arg-type]


COSTS = CostModel(
    forward_s={(1, 1): 1.0, (1, 2): 1.2, (1, 5): 1.8, (4, 1): 9.0},
    prefill_s={32: 3.0, 64: 5.0},
    draft_s={(4, 1): 0.1, (4, 8): 0.3, (8, 1): 0.2, (8, 8): 0.4},
    hop_s=0.0,
    origin=Provenance("h", "c", "d"),
)


def test_one_counter_counts_the_ids_of_all_texts() -> None:
    assert sample("plain", 0, 3.0).num_tokens == 6
    assert sample("plain", 0, 3.0).speed == 2.0


def test_a_ratio_is_the_median_of_the_ratios_within_each_run() -> None:
    """Not the ratio of the medians, which would be 1 here; and other cases do not count."""
    samples = [
        *(sample("plain", run, seconds) for run, seconds in enumerate((1.0, 2.0, 4.0))),
        *(sample("auto", run, seconds) for run, seconds in reversed([*enumerate((2.0, 1.0, 2.0))])),
        *(sample("auto", run, 100.0, case="sampled") for run in range(3)),
    ]
    assert figures.ratio(samples, "greedy", "auto", "plain") == (2.0, 0.5, 2.0)
    assert figures.speeds(samples, "greedy", "plain") == (3.0, 1.5, 6.0)


def test_a_run_without_its_baseline_is_no_ratio() -> None:
    with pytest.raises(ValueError, match="shorter|longer"):
        figures.ratio([sample("auto", 0, 1.0)], "greedy", "auto", "plain")
    with pytest.raises(ValueError, match="no samples"):
        figures.spread([])


def test_a_liar_is_found_in_any_run_and_named() -> None:
    """In its case and by its name; baselines of others may write what they like."""
    lie = ((1, 2, 3, 9), (5, 6))
    samples = [
        sample("plain", 0, 1.0),
        sample("plain", 1, 1.0),
        sample("auto", 0, 1.0),
        sample("auto", 1, 1.0),
        sample("generate", 0, 1.0, texts=lie),
    ]
    assert figures.differing(samples, ["auto"], "plain") == []
    samples[3] = sample("auto", 1, 1.0, texts=lie)
    assert figures.differing(samples, ["auto"], "plain") == ["greedy auto"]


def test_a_baseline_that_contradicts_itself_is_found() -> None:
    samples = [sample("plain", 0, 1.0), sample("plain", 1, 1.0, texts=((1,),))]
    assert figures.differing(samples, (), "plain") == ["greedy plain"]


def test_acceptance_is_over_all_runs() -> None:
    samples = [
        sample("auto", 0, 1.0, drafted=10, accepted=4),
        sample("auto", 1, 1.0, drafted=30, accepted=4),
    ]
    assert figures.acceptance(samples, "greedy", "auto") == 0.2
    assert figures.acceptance(samples, "greedy", "plain") == 0.0


def test_the_ideal_is_the_sum_of_bare_calls() -> None:
    """Two prompts, 3 rounds without a guess, 2 of two levels with two guesses each, 5 steps."""
    written = Written(TEXT, levels={0: 3, 2: 2}, steps={4: 3, 8: 2})
    plan = Plan(tree_width=2)
    expected = (3.0 + 5.0) + 3 * 1.0 + 2 * 1.8 + 3 * 0.1 + 2 * 0.2
    assert ideal_seconds(COSTS, written, [[0] * 32, [0] * 64], plan) == pytest.approx(expected)


def test_the_ceiling_is_the_best_exit_and_length() -> None:
    """Every guess right: 5 tokens for a forward of 5 rows and 4 steps of the cheap exit."""
    factor, layer, length = ceiling(COSTS, longest=4)
    assert (layer, length) == (4, 4)
    assert math.isclose(factor, 5 / (1.8 + 0.4))
