"""The API over a real engine holds its own document, and nothing that is sent to it harms it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzzing import check_health, run_malformed, run_schema
from tests.local_backend import tiny_service


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tiny_service(tmp_path_factory.mktemp("tiny")) as found:
        yield found


def test_answers_to_cases_of_the_published_document_are_as_it_says(url: str) -> None:
    statuses = run_schema(url, 200, 1)
    check_health(url)
    assert statuses.total() >= 200
    assert statuses[200] >= 20
    assert statuses[400] >= 20


def test_malformed_requests_are_refused_and_harm_nothing(url: str) -> None:
    statuses = run_malformed(url, 500, 1)
    check_health(url)
    assert set(statuses) <= {200, 400, 404}
    assert statuses[400] >= 300
