"""The OpenAPI document of this service, made from the models that check requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from s2d_ray import __version__
from s2d_ray.serve.gate import OPEN_PATHS
from s2d_ray.serve.openai import reply_shapes, shapes
from s2d_ray.serve.openai.chat import ChatCompletionRequest
from s2d_ray.serve.openai.completions import CompletionRequest
from s2d_ray.serve.openai.fields import Endpoint, Kind, rules_of
from s2d_ray.serve.openai.tokens import DetokenizeRequest, TokenizeRequest

REQUESTS: dict[type[BaseModel], Endpoint | None] = {
    ChatCompletionRequest: Endpoint.CHAT,
    CompletionRequest: Endpoint.COMPLETIONS,
    TokenizeRequest: None,
    DetokenizeRequest: None,
}
ANSWERS: tuple[type[BaseModel], ...] = (
    reply_shapes.ChatCompletion,
    reply_shapes.ChatCompletionChunk,
    reply_shapes.Completion,
    reply_shapes.CompletionChunk,
    shapes.Tokenized,
    shapes.Detokenized,
    shapes.Model,
    shapes.ModelList,
    shapes.HealthBody,
    shapes.Ready,
    shapes.NotReady,
    shapes.Version,
    shapes.UsageBody,
    shapes.Revoked,
    shapes.Error,
)
REF = "#/components/schemas/{model}"
ERRORS = {
    400: "a field is wrong (`param` names it), the prompt is too long "
    "(`context_length_exceeded`), or the body is no JSON",
    401: "no API key, or not a valid one",
    403: "the key's owner may not do this",
    404: "there is no such model (`model_not_found`), key or route",
    413: "the body is over `http.max_body_bytes`",
    429: "the tenant has used up a limit: `x-s2d-reason` says which, `retry-after` how long",
    500: "an error of the server's own",
    503: "the target is not there yet, a queue is full, it took longer than "
    "`http.max_request_s` (`deadline`), or it lost three replicas in a row (`replica_lost`); "
    "`retry-after` says when to come back",
    504: "the target did not answer in time",
}


FOR_TENANTS = (400, 401, 403, 503)
"""Statuses of every route that asks for an API key."""


@cache
def document(*, with_tenants: bool = False) -> dict[str, Any]:
    """The whole document, OpenAPI 3.1. The answers' shapes hold for every answer.

    with_tenants: of a service that asks for API keys.
    """
    whole = _document()
    if with_tenants:
        whole["paths"] |= _tenancy_paths()
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path in whole["paths"].keys() - OPEN_PATHS:
            for operation in whole["paths"][path].values():
                operation["security"] = [{"key": []}]
                operation["responses"] |= _errors(*FOR_TENANTS)
    return whole


def _document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "s2d-ray", "version": __version__},
        "paths": {
            "/v1/chat/completions": {
                "post": _post(
                    "the answer to a chat, whole or as server-sent events",
                    ChatCompletionRequest,
                    _either(reply_shapes.ChatCompletion, reply_shapes.ChatCompletionChunk),
                )
            },
            "/v1/completions": {
                "post": _post(
                    "the continuation of texts or token ids, whole or as server-sent events",
                    CompletionRequest,
                    _either(reply_shapes.Completion, reply_shapes.CompletionChunk),
                )
            },
            "/tokenize": {
                "post": _post(
                    "the ids of a text or a chat", TokenizeRequest, _json(shapes.Tokenized)
                )
            },
            "/detokenize": {
                "post": _post("the text of ids", DetokenizeRequest, _json(shapes.Detokenized))
            },
            "/v1/models": {
                "get": _get(
                    "the targets, and names of a choice among them", _json(shapes.ModelList)
                )
            },
            "/v1/models/{id}": {"get": _one_model()},
            "/health": {
                "get": _get(
                    "state and counters of targets and draft; 200 while the process lives",
                    _json(shapes.HealthBody),
                )
            },
            "/readyz": {"get": _ready()},
            "/version": {"get": _get("the version of s2d-ray", _json(shapes.Version))},
            "/metrics": {
                "get": _get(
                    "the metrics of all nodes, merged, in Prometheus' text form",
                    {"text/plain": {"schema": {"type": "string"}}},
                )
            },
            "/openapi.json": {
                "get": _get("this document", {"application/json": {"schema": {"type": "object"}}})
            },
        },
        "components": {"schemas": _schemas()},
    }


def _tenancy_paths() -> dict[str, Any]:
    key_id = {"name": "key_id", "in": "path", "required": True, "schema": {"type": "string"}}
    revoke = {
        "summary": "a key stops to work, on all routers before the answer (operators)",
        "parameters": [key_id],
        "responses": _answers(_json(shapes.Revoked), 404, 500),
    }
    return {
        "/v1/usage": {
            "get": _get(
                "sums of requests and tokens of the tenant, or of all", _json(shapes.UsageBody)
            )
        },
        "/v1/operator/keys/{key_id}/revoke": {"post": revoke},
    }


def _schemas() -> dict[str, Any]:
    checked = [(model, "validation") for model in (*REQUESTS, *ANSWERS)]
    _, definitions = models_json_schema(checked, ref_template=REF)  # type: ignore[arg-type]
    schemas: dict[str, Any] = definitions["$defs"]
    for model, endpoint in REQUESTS.items():
        if endpoint is not None:
            schemas[model.__name__] = _with_table(schemas[model.__name__], endpoint)
    return schemas


def _with_table(schema: Mapping[str, Any], endpoint: Endpoint) -> dict[str, Any]:
    """A request's schema with the fields that its model does not name, and no others."""
    honoured, ignored, refused = (rules_of(endpoint, kind) for kind in Kind)
    named = {
        name: {**field, "description": honoured[name].text}
        for name, field in schema["properties"].items()
    }
    without_effect = {
        name: {"description": f"without effect: {rule.text}"} for name, rule in ignored.items()
    }
    neutral = {
        name: {"enum": [None, *rule.neutral], "description": f"not supported: {rule.text}"}
        for name, rule in refused.items()
    }
    properties = {**named, **without_effect, **neutral}
    return {**schema, "properties": properties, "additionalProperties": False}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(model)}}


def _either(whole: type[BaseModel], chunk: type[BaseModel]) -> dict[str, Any]:
    """One JSON body, or with `stream` server-sent events; the schema is that of one event."""
    event = {
        "type": "object",
        "properties": {"data": {"type": "string"}},
        "required": ["data"],
        "description": f"data: a {chunk.__name__}, an Error that ends the stream, or [DONE]",
    }
    return _json(whole) | {"text/event-stream": {"schema": event}}


def _answers(content: dict[str, Any], *errors: int) -> dict[str, Any]:
    found: dict[str, Any] = {"200": {"description": "done", "content": content}}
    return found | _errors(*errors)


def _errors(*statuses: int) -> dict[str, Any]:
    return {
        str(status): {"description": ERRORS[status], "content": _json(shapes.Error)}
        for status in statuses
    }


def _get(summary: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": _answers(content, 500)}


def _post(summary: str, model: type[BaseModel], content: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": _json(model)}
    return {"summary": summary, "requestBody": body, "responses": _answers(content, *ERRORS)}


def _one_model() -> dict[str, Any]:
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    answers = _answers(_json(shapes.Model), 404, 500)
    return {"summary": "one of them", "parameters": [name], "responses": answers}


def _ready() -> dict[str, Any]:
    answers = _answers(_json(shapes.Ready), 500)
    answers["503"] = {"description": ERRORS[503], "content": _json(shapes.NotReady)}
    return {
        "summary": "whether a target answers; a missing draft is `degraded`",
        "responses": answers,
    }
