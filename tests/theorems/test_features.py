"""Every sampling feature: the text is that of a plain reference, and no proposal changes it.

The reference knows no batch, cache, draft or class of the engine: for every token it scores the
whole text anew with the stock model, and it applies the features id by id.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from llguidance import LLMatcher

from s2d_ray.core.cascade import Plan
from s2d_ray.core.coupling import gumbel_noise
from s2d_ray.core.params import JsonFormat, SamplingParams
from s2d_ray.engine.messages import Mode, Refused
from s2d_ray.models.grammar import _LOOSE
from s2d_ray.models.ragged import RaggedModel
from tests.features import FEATURES, SCHEMA
from tests.scripted import Forest, Oracle, Scripted, by_row
from tests.targets import Client, Job, make_engine, write
from tests.tiny import EOS, VOCAB_SIZE, tiny_decoder, tiny_text, tiny_vocabulary

FEATURE = pytest.mark.parametrize("feature", FEATURES)
TEMPERATURE = pytest.mark.parametrize("temperature", [0.0, 0.9])
PROMPTS = [tuple(2 + (17 * i + 5 * j) % 90 for j in range(7 + 2 * i)) for i in range(4)]
MAX_TOKENS = 26


@cache
def stock() -> Any:
    return tiny_decoder("llama", torch.float64, layers=2, seed=8, attention="sdpa")


@cache
def ragged() -> RaggedModel:
    return RaggedModel(tiny_decoder("llama", torch.float64, layers=2, seed=8), cache_tokens=4_096)


def reference_law(
    row: list[float], sampling: SamplingParams, prompt: Sequence[int], output: Sequence[int]
) -> list[float]:
    """Scores of the next token; -inf for what may not come."""
    scores = []
    for token, score in enumerate(row):
        if token in prompt or token in output:
            score *= sampling.repetition_penalty ** (-1 if score > 0 else 1)
        score -= sampling.frequency_penalty * list(output).count(token)
        score -= sampling.presence_penalty * (token in output)
        score += dict(sampling.logit_bias).get(token, 0.0)
        ends = {*sampling.stop_token_ids} | (set() if sampling.ignore_eos else {EOS})
        if len(output) < sampling.min_tokens and token in ends:
            score = -math.inf
        scores.append(score)
    return scores


def reference_filters(scores: list[float], sampling: SamplingParams) -> list[float]:
    """Top-k, then top-p, then min-p, on scores without ties."""
    if sampling.temperature == 0.0:
        return scores
    order = sorted(range(len(scores)), key=lambda token: -scores[token])
    if sampling.top_k:
        order = order[: sampling.top_k]
    weights = {
        token: math.exp((scores[token] - scores[order[0]]) / sampling.temperature)
        for token in order
    }
    whole, before, kept = math.fsum(weights.values()), 0.0, set()
    for token in order:
        if before < sampling.top_p * whole or not kept:
            kept.add(token)
        before += weights[token]
    kept = {token for token in kept if weights[token] >= sampling.min_p}
    return [score if token in kept else -math.inf for token, score in enumerate(scores)]


class Json:
    """A JSON text so far, re-read from its start for every question."""

    def __init__(self, wanted: JsonFormat) -> None:
        vocabulary = tiny_vocabulary()
        schema = wanted.schema or '{"type":"object"}'
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults=_LOOSE)
        self._matcher = LLMatcher(vocabulary.tokenizer, grammar)

    def may(self, output: Sequence[int], token: int) -> bool:
        self._matcher.reset()
        self._matcher.consume_tokens(list(output))
        return self._matcher.validate_tokens([token]) == 1

    def is_complete(self, output: Sequence[int]) -> bool:
        self._matcher.reset()
        self._matcher.consume_tokens(list(output))
        return self._matcher.is_stopped()


def reference_text(job: Job) -> tuple[list[int], list[float]]:
    """Ids, and the log-probability of each in the model's own law, without any budget on JSON."""
    sampling = job.sampling
    grammar = sampling.format and Json(sampling.format)
    output: list[int] = []
    logprobs: list[float] = []
    while len(output) < (sampling.max_tokens or 0):
        with torch.inference_mode():
            logits = stock()(torch.tensor([[*job.prompt_ids, *output]])).logits[0, -1]
        scores = reference_law(logits.tolist(), sampling, job.prompt_ids, output)
        if grammar:
            legal = [grammar.may(output, token) for token in range(VOCAB_SIZE)]
            scores = [s if ok else -math.inf for s, ok in zip(scores, legal, strict=True)]
        scores = reference_filters(scores, sampling)
        position = len(job.prompt_ids) + len(output)
        noise = gumbel_noise(sampling.seed, position, torch.arange(VOCAB_SIZE)).tolist()
        perturbed = [s + sampling.temperature * g for s, g in zip(scores, noise, strict=True)]
        token = perturbed.index(max(perturbed))
        output.append(token)
        logprobs.append(float(torch.log_softmax(logits, -1)[token]))
        if token in sampling.stop_token_ids or (token == EOS and not sampling.ignore_eos):
            break
        if grammar and grammar.is_complete(output):
            break
        free = output[sampling.min_tokens :]
        if any(tiny_text().token_bytes(t).decode(errors="replace") in sampling.stop for t in free):
            break
    return output, logprobs


def jobs_of(feature: str, temperature: float, **changes: Any) -> list[Job]:
    fields = {"max_tokens": MAX_TOKENS, **FEATURES[feature], **changes}
    return [
        Job(
            f"job-{i}",
            prompt,
            SamplingParams(100 + i, temperature, **fields),
            Plan((), 0.0, 6, tree_width=3),
        )
        for i, prompt in enumerate(PROMPTS)
    ]


def run(jobs: Sequence[Job], proposer: Scripted | None = None) -> list[Client]:
    engine = make_engine(ragged(), tiny_text(), eos=frozenset({EOS}))
    return write(ragged(), engine, jobs, proposer)


def plain(jobs: Sequence[Job]) -> list[Job]:
    return [replace(job, mode=Mode.OFF) for job in jobs]


@FEATURE
@TEMPERATURE
def test_the_text_is_that_of_a_plain_reference(feature: str, temperature: float) -> None:
    """JSON texts get room for their budget not to bind, and count up to where it might."""
    jobs = jobs_of(feature, temperature)
    if FEATURES[feature].get("format"):
        jobs = jobs_of(feature, temperature, max_tokens=160)[:2]
    for job, client in zip(jobs, run(plain(jobs)), strict=True):
        ids, logprobs = reference_text(job)
        if FEATURES[feature].get("format") and len(client.ids) > 100:
            assert list(client.ids[:100]) == ids[:100]
            continue
        assert list(client.ids) == ids
        if job.sampling.logprobs is not None:
            told = [trace.logprob for trace in client.traces]
            assert [t and t.logprob for t in told] == pytest.approx(logprobs, abs=1e-9)
            for trace in client.traces:
                best = [alternative.logprob for alternative in trace.alternatives]
                assert len(best) == job.sampling.logprobs
                assert best == sorted(best, reverse=True)
        else:
            assert all(trace.logprob is None for trace in client.traces)


@FEATURE
@TEMPERATURE
@pytest.mark.parametrize("shape", ["chains", "trees"])
def test_no_chain_or_tree_changes_a_text(feature: str, temperature: float, shape: str) -> None:
    """Alone and in a batch; proposals are right most of the time, so much is accepted."""
    jobs = jobs_of(feature, temperature)
    silent = run(plain(jobs))
    texts = {
        job.name: [*job.prompt_ids, *client.ids, *[11, 12, 13] * 20]
        for job, client in zip(jobs, silent, strict=True)
    }
    script = (Oracle if shape == "chains" else Forest)(texts, VOCAB_SIZE, 0.2, seed=4)
    batched = run(jobs, Scripted(by_row(script)))
    alone = [run([job], Scripted(by_row(type(script)(texts, VOCAB_SIZE, 0.2)))) for job in jobs]
    for clients in (batched, [client for (client,) in alone]):
        for ours, reference in zip(clients, silent, strict=True):
            assert ours.outcome == reference.outcome
            assert [t.logprob and t.logprob.token_id for t in ours.traces] == [
                t.logprob and t.logprob.token_id for t in reference.traces
            ]
    assert sum(client.usage.accepted_tokens for client in batched) > 0


@pytest.mark.parametrize("slack", [0, 1, 4, 20])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_json_is_valid_in_every_try_that_has_room_for_the_shortest_document(
    slack: int, temperature: float
) -> None:
    """Twenty seeds each, 160 tries; a draft that guesses changes none of them."""
    num_shortest = len('{"a":"","c":"on"}')
    jobs = [
        replace(
            job,
            name=f"{job.name}-{seed}",
            sampling=replace(job.sampling, seed=seed, max_tokens=num_shortest + slack),
        )
        for seed in range(5)
        for job in jobs_of("json_schema", temperature)
    ]
    silent = run(plain(jobs))
    for client in silent:
        Draft202012Validator(SCHEMA).validate(json.loads(client.text))
    texts = {
        job.name: [*job.prompt_ids, *client.ids, *[11] * 40]
        for job, client in zip(jobs, silent, strict=True)
    }
    spoken = run(jobs, Scripted(by_row(Forest(texts, VOCAB_SIZE, 0.2))))
    assert [client.outcome for client in spoken] == [client.outcome for client in silent]


def test_a_budget_below_the_shortest_document_is_refused_with_its_length() -> None:
    num_shortest = len('{"a":"","c":"on"}')
    (job, *_) = jobs_of("json_schema", 0.0, max_tokens=num_shortest - 1)
    (client,) = run([job])
    assert isinstance(client.last, Refused)
    assert client.last.param == "max_tokens"
    assert str(num_shortest) in client.last.message


def test_a_complete_text_whose_likely_tokens_do_not_fit_is_ended() -> None:
    """Of "1" with one token left, top-p may leave nothing but the point of a fraction."""
    jobs = [
        replace(
            job, name=f"{job.name}-{seed}", sampling=replace(job.sampling, seed=seed, top_p=0.05)
        )
        for seed in range(15)
        for job in jobs_of("json_schema", 0.5, max_tokens=2, format=JsonFormat("{}"))
    ]
    for client in run(plain(jobs)):
        json.loads(client.text)
