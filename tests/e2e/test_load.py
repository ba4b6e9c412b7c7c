"""The load generator against the HTTP edge over a scripted backend: its figures are what happened.

A short form of `make load`, without Ray and without a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from s2d_ray.engine.messages import GenerateRequest, Refused
from tests.fakes_http import HANG, FakeBackend, Step, app_over, serving
from tests.loading import Load, by_kind, offer
from tests.model_script import like_a_model

FULL = Refused(503, "the queue is full", code="queue_full")
TOKENS = 7
"""Of the scripted answer."""


def test_an_open_loop_asks_on_whatever_is_answered_and_counts_what_was(
    smollm2: Path, tmp_path: Path
) -> None:
    """The first request never ends, every fifth is refused; the others are answered meanwhile."""
    refused = 0

    def script(request: GenerateRequest) -> Sequence[Step]:
        nonlocal refused
        number = len(backend.requests)
        if number == 1:
            return [HANG]
        if number % 5 == 0:
            refused += 1
            return [FULL]
        return like_a_model(request)

    backend = FakeBackend(script)
    load = Load("tiny", 20, 1.5, smollm2, prompt_tokens=20, output_tokens=20, patience_s=8)
    with serving(app_over(backend)) as url:
        found = offer(url, load, tmp_path)
    assert len(backend.requests) > 10
    assert found["requests"] == len(backend.requests)
    assert found["answered"] == len(backend.requests) - refused - 1
    assert found["errors"].pop("503 queue_full") == refused > 1
    assert found["errors"] == {"TimeoutError": 1}
    assert found["output_tokens"] == TOKENS * found["answered"]
    assert found["prompt_tokens"] == TOKENS * found["answered"]
    assert found["goodput_tokens_per_s"] == pytest.approx(TOKENS * found["requests_per_s"])
    assert 0 < found["ttft_ms"]["p50"] <= found["ttft_ms"]["p95"] <= found["ttft_ms"]["p99"]
    asked = {request.sampling for _, request in backend.requests}
    assert all(sampling.ignore_eos and sampling.seed == 1 for sampling in asked)
    assert len({sampling.max_tokens for sampling in asked}) > 1


def test_an_error_without_our_body_is_named_by_its_status_and_type() -> None:
    lost = {"type": "ServerDisconnectedError", "message": "gone"}
    full = {"code": 503, "type": "Service Unavailable", "message": '{"error": {"code": "full"}}'}
    errors = [{"error_details": lost, "count": 2}, {"error_details": full, "count": 3}]
    assert by_kind(errors) == {"503 full": 3, "ServerDisconnectedError": 2}
