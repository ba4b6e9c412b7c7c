"""Drives a running service with what its document allows, with what it does not, and with noise."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from tests.local_backend import NAME
from tests.malformed import malformed
from tests.published import check_answer

TEXTS = ("/v1/chat/completions", "/v1/completions")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
TIMEOUT_S = 60
MAX_TOKENS = 12


def shares(schema: Any, num_cases: int) -> Iterator[tuple[Any, GenerationMode, int]]:
    """(operation, mode, cases), `num_cases` or a few more; those that write text have the most."""
    weights: dict[tuple[Any, GenerationMode], int] = {}
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.body:
            weight = 4 if operation.path in TEXTS else 1
            weights |= {(operation, mode): weight for mode in GenerationMode}
        elif operation.path_parameters:
            weights[operation, GenerationMode.POSITIVE] = 1
        else:  # there is just one such request
            yield operation, GenerationMode.POSITIVE, 1
    for (operation, mode), weight in weights.items():
        yield operation, mode, -(-num_cases * weight // sum(weights.values()))


def run_schema(url: str, num_cases: int, number: int) -> Counter[int]:
    """At least so many cases made from the published document; -> answers by status.

    Raises on the first answer that is a server error or not as the document says.
    """
    statuses: Counter[int] = Counter()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    for operation, mode, share in shares(schema, num_cases):
        _case_runner(operation, mode, share, number, statuses)()
    return statuses


def _case_runner(
    operation: Any, mode: GenerationMode, share: int, number: int, statuses: Counter[int]
) -> Callable[[], None]:
    @seed(number)
    @settings(
        max_examples=share,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and operation.body:
            _make_servable(case.body, operation.path in TEXTS)
        response = case.call(timeout=TIMEOUT_S)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    return run


def _make_servable(body: dict[str, Any], writes_text: bool) -> None:
    """Name the model, which the document cannot know, and keep the texts short."""
    body["model"] = NAME
    if writes_text:
        body.pop("max_completion_tokens", None)
        body["max_tokens"] = 1 + (body.get("max_tokens") or 0) % MAX_TOKENS


def run_malformed(url: str, num_requests: int, number: int) -> Counter[int]:
    """So many malformed requests from a seed; -> answers by status.

    Raises on the first answer that is a server error or not as the document says.
    """
    statuses: Counter[int] = Counter()
    numbers = random.Random(number)
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        for _ in range(num_requests):
            path, raw = malformed(numbers)
            response = client.post(path, content=raw)
            statuses[response.status_code] += 1
            assert response.status_code < 500, (path, raw, response.text)
            check_answer("POST", path, response)
    return statuses


def check_health(url: str) -> None:
    """Raise unless the service answers, has nothing left to do, and still writes texts."""
    health = httpx.get(f"{url}/health", timeout=TIMEOUT_S).json()
    assert health["status"] == "ok"
    for target in health["targets"].values():
        assert target["counters"]["queue_depth"] == 0
    body = {"model": next(iter(health["targets"])), "prompt": "hi", "max_tokens": 2}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=TIMEOUT_S)
    assert response.status_code == 200, response.text
