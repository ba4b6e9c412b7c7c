"""Counts of a reply: OpenAI's usage, how speculation went, and vLLM's object about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from s2d_ray.engine.messages import RoundCount, Usage


def total(usages: Sequence[Usage], num_choices: int) -> Usage:
    """The counts of all choices together; those of one prompt read it once.

    num_choices: choices of each prompt; usages lie prompt by prompt.
    """
    by_submodel: Counter[int] = Counter()
    by_rank: Counter[int] = Counter()
    by_length: Counter[tuple[int, int]] = Counter()
    for usage in usages:
        by_submodel.update(usage.accepted_by_submodel)
        by_rank.update(usage.accepted_by_rank)
        for count in usage.rounds_by_length:
            by_length[count.drafted, count.accepted] += count.rounds
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages[::num_choices]),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        rounds=sum(usage.rounds for usage in usages),
        drafted_tokens=sum(usage.drafted_tokens for usage in usages),
        accepted_tokens=sum(usage.accepted_tokens for usage in usages),
        accepted_by_submodel=dict(sorted(by_submodel.items())),
        accepted_by_rank=dict(sorted(by_rank.items())),
        draft_misses=sum(usage.draft_misses for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages[::num_choices]),
        rounds_by_length=tuple(
            RoundCount(drafted, accepted, rounds)
            for (drafted, accepted), rounds in sorted(by_length.items())
        ),
    )


def usage_body(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object; rejected predictions are drafted tokens that were not accepted."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": usage.accepted_tokens,
            "rejected_prediction_tokens": usage.drafted_tokens - usage.accepted_tokens,
        },
    }


def totals_body(usage: Usage) -> dict[str, Any]:
    """How speculation went, for the `s2d` object of a finished reply."""
    accepted_per_round = usage.accepted_tokens / usage.rounds if usage.rounds else 0.0
    return {
        "rounds": usage.rounds,
        "mean_accepted_length": 1.0 + accepted_per_round,
        "accepted_by_submodel": {str(k): v for k, v in usage.accepted_by_submodel.items()},
        "accepted_by_rank": {str(k): v for k, v in usage.accepted_by_rank.items()},
        "draft_misses": usage.draft_misses,
    }


def metrics_body(usage: Usage, max_proposal: int) -> dict[str, Any] | None:
    """vLLM's per-request object, of the rounds that had a proposal; None if there was none.

    A tree counts by its depth here, so that the histograms and the sums agree.
    """
    counts = [count for count in usage.rounds_by_length if count.drafted]
    if not counts:
        return None
    longest = max(max_proposal, *(count.drafted for count in counts))
    by_length = {count.drafted: [0] * (count.drafted + 1) for count in counts}
    histogram = [0] * (longest + 1)
    for count in counts:
        histogram[count.accepted] += count.rounds
        by_length[count.drafted][count.accepted] += count.rounds
    steps = sum(histogram)
    accepted = sum(count.accepted * count.rounds for count in counts)
    drafted = sum(count.drafted * count.rounds for count in counts)
    speculation = {
        "mean_acceptance_length": 1.0 + accepted / steps,
        "draft_acceptance_rate": accepted / drafted,
        "acceptance_histogram": histogram,
        "acceptance_histogram_by_draft_length": {str(k): v for k, v in sorted(by_length.items())},
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": drafted,
        "num_spec_tokens": max_proposal,
    }
    return {"speculative_decoding": speculation}
