"""The tree of errors: each one pickles, and has one HTTP status and one OpenAI type."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from s2d_ray import errors
from s2d_ray.errors import RequestError, S2DError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


def tree(kind: type[S2DError]) -> Iterator[type[S2DError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


@pytest.mark.parametrize("kind", list(tree(S2DError)))
def test_an_error_has_one_status_and_the_type_of_that_status(kind: type[S2DError]) -> None:
    assert TYPES[kind.status] == kind.type


@pytest.mark.parametrize("kind", list(tree(S2DError)))
def test_an_error_pickles_with_all_it_says(kind: type[S2DError]) -> None:
    error = (
        kind("why", "field", "code", {"retry-after": "3"})
        if issubclass(kind, RequestError)
        else kind("why")
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == "why"


@pytest.mark.parametrize("kind", list(tree(S2DError)))
def test_an_error_is_drawn_in_the_tree_at_the_top_of_its_module(kind: type[S2DError]) -> None:
    assert errors.__doc__
    lines = [line for line in errors.__doc__.splitlines() if f" {kind.__name__}  " in f"{line}  "]
    assert len(lines) == 1
    if issubclass(kind, RequestError):
        assert lines[0].endswith(str(kind.status))
