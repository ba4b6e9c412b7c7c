"""The request surface on the running service: formats, tools, choices, prompts of every kind."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.serve.service import TARGETS, Service, ids_of

QUESTION = [{"role": "user", "content": "Name a person and an age."}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_constrained_texts_are_valid_and_the_same_without_chains_and_trees(
    service: Service,
) -> None:
    """Eight seeds on both targets, with little room; then a function that must be called."""

    def ask(seed: int, **s2d: Any) -> dict[str, Any]:
        body = {
            "model": TARGETS[seed % 2],
            "messages": QUESTION,
            "seed": seed,
            "max_tokens": 24,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "person", "schema": PERSON, "strict": True},
            },
            "s2d": {"trace": True, **s2d},
        }
        answer = service.http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        reply: dict[str, Any] = answer.json()
        return reply

    with ThreadPoolExecutor(8) as pool:
        plain = list(pool.map(lambda seed: ask(seed, mode="off"), range(8)))
        tree = {"mode": "force", "max_proposal": 4, "tree_width": 3, "tree_depth": 2}
        forced = list(pool.map(lambda seed: ask(seed, **tree), range(8)))
    for reply in plain:
        person = json.loads(reply["choices"][0]["message"]["content"])
        assert set(person) == {"name", "age"}
        assert 1 <= person["age"] <= 120
    assert [ids_of(reply) for reply in forced] == [ids_of(reply) for reply in plain]
    assert sum(reply["metrics"]["speculative_decoding"]["num_draft_tokens"] for reply in forced) > 0

    function = {"name": "add_person", "parameters": PERSON}
    called = service.openai.chat.completions.create(
        model=TARGETS[0],
        messages=QUESTION,
        tools=[{"type": "function", "function": function}],
        tool_choice={"type": "function", "function": {"name": "add_person"}},
        max_tokens=32,
        seed=3,
    ).choices[0]
    assert called.finish_reason == "tool_calls"
    assert called.message.tool_calls is not None
    assert set(json.loads(called.message.tool_calls[0].function.arguments)) == {"name", "age"}


def test_choices_prompts_and_the_service_s_own_routes_agree(service: Service) -> None:
    """The first of three choices is the single answer; a prompt as ids is the prompt as text."""
    ask = {"model": TARGETS[0], "messages": QUESTION, "seed": 12, "max_tokens": 8}
    one = service.openai.chat.completions.create(**ask)
    three = service.openai.chat.completions.create(**ask, n=3, logprobs=True, top_logprobs=2)
    assert three.choices[0].message.content == one.choices[0].message.content
    assert len({choice.message.content for choice in three.choices}) > 1
    for choice in three.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        joined = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
        assert joined.decode(errors="replace").strip() == (choice.message.content or "").strip()
        assert all(len(token.top_logprobs) == 2 for token in choice.logprobs.content)

    text = "Once upon a time"
    tokens = service.http.post("/tokenize", json={"model": TARGETS[0], "prompt": text}).json()
    back = {"model": TARGETS[0], "tokens": tokens["tokens"]}
    assert service.http.post("/detokenize", json=back).json()["prompt"] == text
    common = {"model": TARGETS[0], "temperature": 0, "max_tokens": 8}
    texts = [
        [c.text for c in service.openai.completions.create(prompt=prompt, **common).choices]
        for prompt in (text, tokens["tokens"], [text, text])
    ]
    assert texts[0] == texts[1] == texts[2][:1]
    assert texts[2][0] == texts[2][1]

    assert service.http.get("/version").json()["version"]
    metrics = service.http.get("/metrics").text
    assert "# TYPE ray_" in metrics
    assert service.http.get("/openapi.json").json()["openapi"].startswith("3.")
