"""Sampling: top-k and top-p ban what a plain reference bans, and what `transformers` bans."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from s2d_ray.core.params import SamplingParams
from s2d_ray.core.sampling import (
    Candidates,
    Past,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    process_logits,
)

NO_IDS = torch.zeros(1, 0, dtype=torch.int64)
# Multiples of 1/4, so that ties are common.
tied_logits = st.lists(st.integers(-12, 12).map(lambda n: n / 4), min_size=1, max_size=30)
different_logits = st.lists(
    st.integers(-48, 48).map(lambda n: n / 8), min_size=2, max_size=60, unique=True
)
top_ps = st.floats(0.01, 0.99)


def allowed(logits: Tensor) -> set[int]:
    return set(torch.nonzero(torch.isfinite(logits)).flatten().tolist())


def left(candidates: Candidates) -> set[int]:
    """The ids that may still be drawn; their order and scores are checked by the way."""
    places = torch.arange(len(candidates.scores))
    ids = places if candidates.ids is None else candidates.ids
    assert torch.equal(ids, ids.unique())
    return set(ids[torch.isfinite(candidates.scores)].tolist())


def reference_top_k(logits: list[float], top_k: int) -> set[int]:
    """Ids with fewer than k better ones."""
    return {
        token
        for token, own in enumerate(logits)
        if sum(other > own for other in logits) < top_k or top_k <= 0
    }


def reference_top_p(logits: list[float], temperature: float, top_p: float) -> tuple[set[int], bool]:
    """Ids with less than `top_p` of mass before them, and whether rounding decides for one.

    Before an id come the likelier ids and the equal ones with lower numbers.
    """
    weights = [math.exp(logit / temperature) for logit in logits]
    total = math.fsum(weights)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    kept, near = set(), False
    for place, token in enumerate(order):
        before = math.fsum(weights[t] for t in order[:place]) / total
        near |= abs(before - top_p) < 1e-9
        if before < top_p or place == 0:
            kept.add(token)
    return kept, near


@settings(deadline=None, max_examples=200)
@given(tied_logits, st.integers(-1, 35))
def test_top_k_keeps_the_ids_with_fewer_than_k_better_ones(logits: list[float], top_k: int) -> None:
    """Ties with the k-th stay: which of two equal ids is banned would depend on a sort."""
    row = torch.tensor(logits, dtype=torch.float64)
    kept = process_logits(row, SamplingParams(0, 1.0, top_k=top_k), Past())
    assert left(kept) == reference_top_k(logits, top_k)
    assert torch.equal(kept.scores, row if kept.ids is None else row[kept.ids])


@settings(deadline=None, max_examples=200)
@given(tied_logits, st.sampled_from([0.5, 0.7, 1.0, 1.6]), top_ps)
def test_top_p_keeps_the_smallest_set_of_likeliest_ids_that_reaches_p(
    logits: list[float], temperature: float, top_p: float
) -> None:
    """Against sums of sorted weights in plain Python; among equal ids the lower numbers stay."""
    kept, near = reference_top_p(logits, temperature, top_p)
    row = torch.tensor(logits, dtype=torch.float64)
    if not near:
        assert keep_top_p(row, temperature, top_p).tolist() == sorted(kept)


@settings(deadline=None, max_examples=100)
@given(different_logits, st.integers(1, 70), st.sampled_from([0.5, 1.0, 1.6]), top_ps)
def test_top_k_and_top_p_equal_those_of_transformers(
    logits: list[float], top_k: int, temperature: float, top_p: float
) -> None:
    """The usual implementation, applied to logits / T in the usual order, bans the same ids. (It
    leaves open which of equal ids top-p bans, hence different logits.)"""
    row = torch.tensor(logits, dtype=torch.float64)
    scaled = (row / temperature)[None]
    by_k = TopKLogitsWarper(top_k)(NO_IDS, scaled)
    if top_k < len(logits):
        assert set(keep_top_k(row, top_k).tolist()) == allowed(by_k[0])
    survivors = [logits[token] for token in sorted(allowed(by_k[0]))]
    if not reference_top_p(survivors, temperature, top_p)[1]:
        both = TopPLogitsWarper(top_p)(NO_IDS, by_k)
        params = SamplingParams(0, temperature, top_p, top_k)
        assert left(process_logits(row, params, Past())) == allowed(both[0])


@settings(deadline=None)
@given(
    tied_logits, st.integers(0, 5), st.floats(0.01, 1.0), st.sampled_from([0.0, 1e-38, 0.7, 1.0])
)
def test_the_best_id_always_survives(
    logits: list[float], top_k: int, top_p: float, temperature: float
) -> None:
    """No setting can ban everything, so a draw always exists, also at a temperature near 0."""
    row = torch.tensor(logits, dtype=torch.float32)
    processed = process_logits(row, SamplingParams(0, temperature, top_p, top_k), Past())
    assert int(torch.argmax(row)) in left(processed)
    if temperature == 0.0:
        assert torch.equal(processed.scores, row)


def test_the_processors_do_not_write_into_the_logits_they_are_given() -> None:
    """Logits are rows of one shared result of a forward."""
    row = torch.tensor([3.0, 1.0, 2.0, 0.0])
    process_logits(row, SamplingParams(0, 1.0, 0.5, 2), Past())
    assert row.tolist() == [3.0, 1.0, 2.0, 0.0]


@pytest.mark.parametrize("top_p", [1.0, 1.5])
def test_top_p_of_one_bans_nothing(top_p: float) -> None:
    """A row whose softmax sums to a hair under 1 keeps its tail."""
    row = torch.linspace(-40, 0, 1000)
    assert process_logits(row, SamplingParams(0, 1.0, top_p), Past()) == Candidates(row)


def reference_scores(
    logits: list[float], params: SamplingParams, prompt: list[int], output: list[int]
) -> list[float]:
    """Penalties and bias, id by id, as the field defines them."""
    scores = []
    for token, score in enumerate(logits):
        if token in prompt or token in output:
            factor = params.repetition_penalty
            score = score / factor if score > 0 else score * factor
        score -= params.frequency_penalty * output.count(token)
        score -= params.presence_penalty * (token in output)
        scores.append(
            score + sum(addend for biased, addend in params.logit_bias if biased == token)
        )
    return scores


ids_of_12 = st.lists(st.integers(0, 11), max_size=12)


@settings(deadline=None, max_examples=200)
@given(
    logits=st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=12, max_size=12),
    prompt=ids_of_12,
    output=ids_of_12,
    repetition=st.sampled_from([0.5, 1.0, 1.3]),
    presence=st.sampled_from([-1.0, 0.0, 0.5]),
    frequency=st.sampled_from([-0.5, 0.0, 0.25]),
    bias=st.dictionaries(st.integers(0, 11), st.integers(-8, 8).map(float), max_size=4),
)
def test_penalties_and_bias_are_those_of_a_plain_reference(
    logits: list[float],
    prompt: list[int],
    output: list[int],
    repetition: float,
    presence: float,
    frequency: float,
    bias: dict[int, float],
) -> None:
    """At T = 0 nothing else happens to the scores; a caller's row is never changed in place."""
    params = SamplingParams(
        0,
        0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        logit_bias=tuple(bias.items()),
    )
    row = torch.tensor(logits, dtype=torch.float64)
    scores = process_logits(row, params, Past(prompt, output)).scores
    expected = torch.tensor(reference_scores(logits, params, prompt, output), dtype=torch.float64)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)
    assert row.tolist() == logits


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.2, 3.0, 8.0]),
    st.booleans(),
    st.sampled_from([0.05, 0.5, 0.9, 0.99, 0.9999]),
)
def test_sorting_the_likely_ids_keeps_what_sorting_all_keeps(
    seed: int, spread: float, has_ties: bool, top_p: float
) -> None:
    """On 2,000 ids, from sets of one to nearly all, with ties at every place."""
    logits = spread * torch.randn(2_000, generator=torch.Generator().manual_seed(seed)).double()
    if has_ties:
        logits = logits.round()
    probabilities = torch.softmax(logits - logits.max(), dim=-1)
    ordered, order = torch.sort(probabilities, descending=True, stable=True)
    kept = order[torch.cumsum(ordered, dim=-1) - ordered < top_p]
    assert keep_top_p(logits, 1.0, top_p).tolist() == kept.sort().values.tolist()


@settings(deadline=None, max_examples=100)
@given(different_logits, st.sampled_from([0.3, 1.0, 1.7]), st.floats(0.01, 0.99))
def test_min_p_bans_what_a_plain_reference_and_transformers_ban(
    logits: list[float], temperature: float, min_p: float
) -> None:
    row = torch.tensor(logits, dtype=torch.float64)
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    assume(all(abs(weight - min_p) > 1e-9 for weight in weights))
    expected = {token for token, weight in enumerate(weights) if weight >= min_p}
    assert keep_min_p(row, temperature, min_p).tolist() == sorted(expected)
    theirs = MinPLogitsWarper(min_p)(NO_IDS, (row / temperature)[None])[0]
    assert allowed(theirs) == expected


def test_a_ban_gives_way_only_where_a_grammar_leaves_nothing_else() -> None:
    row = torch.zeros(4)
    only_end = torch.tensor([True, False, False, False])
    params = SamplingParams(0, 0.0)
    assert left(process_logits(row, params, Past(banned=(0,)))) == {1, 2, 3}
    assert left(process_logits(row, params, Past(banned=(0,), allowed=only_end))) == {0}
    assert left(process_logits(row, params, Past(banned=(0,), allowed=~only_end))) == {1, 2, 3}
