"""The published document is OpenAPI, names every route and field, and accepts what is accepted."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.body import parse_request
from s2d_ray.serve.openai.chat import ChatCompletionRequest
from s2d_ray.serve.openai.completions import CompletionRequest
from s2d_ray.serve.openai.document import document
from s2d_ray.serve.openai.fields import RULES, Endpoint, Kind
from tests.fakes_http import FakeBackend, app_over, call, chat_body, text_body
from tests.published import component, holds

MODELS: dict[Endpoint, type[ChatCompletionRequest] | type[CompletionRequest]] = {
    Endpoint.CHAT: ChatCompletionRequest,
    Endpoint.COMPLETIONS: CompletionRequest,
}
BODIES = {Endpoint.CHAT: chat_body, Endpoint.COMPLETIONS: text_body}
CASES = [
    pytest.param(endpoint, rule, id=f"{endpoint}-{rule.name}")
    for rule in RULES
    for endpoint in rule.endpoints
]
VALUES: list[Any] = ["x", 3, -0.5, True, False, {"a": "b"}, ["a"], {}, [], None, "", 0, 10**30]


def test_the_document_is_served_and_its_schemas_are_schemas() -> None:
    served = call(app_over(FakeBackend()), "GET", "/openapi.json").json()
    assert served["openapi"] == "3.1.0"
    assert served == json.loads(json.dumps(document()))
    for schema in served["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_route_of_the_app_is_in_the_document_and_no_other() -> None:
    app = app_over(FakeBackend())
    routes = {
        (route.path.replace("{name}", "{id}"), method.lower())
        for route in app.routes
        if route.include_in_schema  # pages are no part of the API
        for method in route.methods - {"HEAD"}
    }
    paths = document()["paths"]
    assert routes == {(path, method) for path, methods in paths.items() for method in methods}


@pytest.mark.parametrize(("endpoint", "rule"), CASES)
def test_the_document_and_the_service_agree_on_the_values_of_every_field(
    endpoint: Endpoint, rule: Any
) -> None:
    """What contradicts another field, the document cannot say; such values are not among these."""
    model = MODELS[endpoint]
    for value in VALUES + list(rule.neutral):
        body = BODIES[endpoint](**{rule.name: value})
        try:
            parse_request(model, endpoint, json.dumps(body).encode())
            is_served = True
        except RequestError:
            is_served = False
        try:
            holds(component(model.__name__), body)
            is_published = True
        except jsonschema.ValidationError:
            is_published = False
        assert is_served == is_published, value


def test_fields_without_effect_and_refused_ones_are_published_as_such() -> None:
    for endpoint, model in MODELS.items():
        properties = document()["components"]["schemas"][model.__name__]["properties"]
        names = {rule.name for rule in RULES if endpoint in rule.endpoints}
        assert set(properties) == names
    assert {kind for kind in Kind} == {rule.kind for rule in RULES}
