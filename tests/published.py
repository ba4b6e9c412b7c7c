"""Holds answers to the published OpenAPI document."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema

from s2d_ray.serve.openai.document import document

CHUNKS = {
    "/v1/chat/completions": "ChatCompletionChunk",
    "/v1/completions": "CompletionChunk",
}


def holds(schema: dict[str, Any], instance: Any) -> None:
    """Raise if `instance` is not what `schema`, a part of the document, says."""
    root = {**schema, "components": document()["components"]}
    jsonschema.Draft202012Validator(root).validate(instance)


def component(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def check_answer(method: str, path: str, response: httpx.Response) -> None:
    """Raise unless the document says that this route may answer so."""
    route = document()["paths"].get(_template(path), {}).get(method.lower())
    if route is None:
        assert response.status_code in (404, 405)
        return holds(component("Error"), response.json())
    answer = route["responses"][str(response.status_code)]
    kind = response.headers["content-type"].partition(";")[0]
    schema = answer["content"][kind]["schema"]
    if kind == "text/event-stream":
        return _check_stream(_template(path), response.text)
    return holds(schema, response.json() if kind == "application/json" else response.text)


def _check_stream(path: str, text: str) -> None:
    events = [block.removeprefix("data: ") for block in text.split("\n\n")[:-1]]
    for number, event in enumerate(events, start=1):
        if number == len(events) and event == "[DONE]":
            continue
        body = json.loads(event)
        is_error = number == len(events) and "error" in body
        holds(component("Error" if is_error else CHUNKS[path]), body)


def _template(path: str) -> str:
    prefix = "/v1/models/"
    is_model = path.startswith(prefix) and "/" not in path[len(prefix) :] and path != prefix
    return f"{prefix}{{id}}" if is_model else path
