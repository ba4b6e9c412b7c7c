"""The benchmark of the router: its engine behind the real edge, and its arithmetic."""

from __future__ import annotations

import asyncio

from s2d_ray.bench.router import CASES, Sample, delta_cost, result, table
from s2d_ray.bench.router_apps import TEXT, FixedEngine
from s2d_ray.config import HttpConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.messages import Finished, GenerateRequest, Started, TextPrompt
from s2d_ray.serve import engine_calls
from s2d_ray.serve.ingress import build_app
from tests.fakes_http import call, events
from tests.local_backend import NAME, LocalBackend


def sample(case: str, method: str, clients: int, number: int, seconds: float) -> Sample:
    return Sample(case, method, clients, number, seconds, [seconds / 4] * 4)


def test_ratios_are_of_the_same_round_and_rates_are_medians() -> None:
    seconds = {"router": (2.0, 4.0, 8.0), "echo": (1.0, 3.0, 2.0)}
    samples = [
        sample("whole", method, 8, number, each)
        for method, times in seconds.items()
        for number, each in enumerate(times)
    ]
    found = result(samples)
    cell = found["whole"]["8"]
    assert cell["ratio"] == [0.5, 0.25, 0.75]
    assert (cell["router"]["requests_per_s"], cell["echo"]["requests_per_s"]) == (1.0, 2.0)
    assert cell["echo"]["p50_ms"] == 500.0
    assert cell["router"]["p95_ms"] == 2000.0
    assert table(found).row_count == 2


def test_the_real_edge_answers_what_the_fixed_engine_writes() -> None:
    app = build_app(LocalBackend(FixedEngine()), HttpConfig())
    for each in CASES:
        body = each.body() | {"model": NAME}
        answer = call(app, "POST", "/v1/completions", json=body)
        assert answer.status_code == 200
        if each.stream:
            texts = [choice["text"] for chunk in events(answer) for choice in chunk["choices"]]
            assert "".join(texts) == TEXT * each.tokens
            assert texts.count(TEXT) == each.tokens
        else:
            assert answer.json()["choices"][0]["text"] == TEXT
            assert answer.json()["usage"]["completion_tokens"] == each.tokens


def test_a_delta_of_one_token_stays_small_between_processes() -> None:
    """Counts so far in each delta once made it four times as long."""
    assert delta_cost()["bytes"] < 150


def test_what_is_there_at_the_same_time_is_told_at_once() -> None:
    """A text of one token is one item of the stream between two processes, not three."""
    request = GenerateRequest("r", TextPrompt("hi"), SamplingParams(1, max_tokens=1), Plan())

    async def told() -> list[int]:
        bundles = [bundle async for bundle in engine_calls.bundles(FixedEngine(), request)]
        flat = [event for bundle in bundles for event in bundle]
        assert isinstance(flat[0], Started)
        assert isinstance(flat[-1], Finished)
        assert flat == [event async for event in engine_calls.generate(FixedEngine(), request)]
        return [len(bundle) for bundle in bundles]

    assert asyncio.run(told()) == [3]
