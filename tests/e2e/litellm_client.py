"""Runs in LiteLLM's own environment: asks the service at a URL, and prints what came as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import litellm

USER = {"role": "user", "content": "hi"}
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name", "people"],
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA, "strict": True}}
NAMED = {"type": "function", "function": {"name": "add"}}
ASKED: dict[str, dict[str, Any]] = {
    "text": {"temperature": 0.5, "seed": 3, "stop": ["x"], "max_tokens": 9},
    "choices": {"n": 3},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "call": {"tools": TOOLS},
    "required": {"tools": TOOLS, "tool_choice": "required"},
    "named": {"tools": TOOLS, "tool_choice": NAMED},
    "schema": {"response_format": FORMAT},
}


def main(url: str) -> None:
    """Ask everything twice, whole and streamed."""
    service = {"model": "hosted_vllm/tiny", "api_base": f"{url}/v1", "api_key": "none"}
    found: dict[str, Any] = {}
    for name, options in ASKED.items():
        options = options | service
        whole = litellm.completion(messages=[USER], **options)
        found[name] = whole.model_dump()
        chunks = list(
            litellm.completion(
                messages=[USER], stream=True, stream_options={"include_usage": True}, **options
            )
        )
        streamed = litellm.stream_chunk_builder(chunks, messages=[USER])
        found[f"{name} streamed"] = streamed.model_dump()
        found[f"{name} chunks"] = [chunk.model_dump() for chunk in chunks]
    message = found["call"]["choices"][0]["message"]
    answer = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "4"}
    again = litellm.completion(messages=[USER, message, answer], tools=TOOLS, **service)
    found["answered"] = again.model_dump()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
