"""Request bodies that are wrong in every way that comes to mind, from a seed."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
DRAWING: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.1,
    "logit_bias": {"5": 1, "7": -100},
    "stop": ["a", "b"],
    "stop_token_ids": [3],
    "seed": 1,
    "n": 2,
    "stream": False,
    "s2d": {"mode": "auto", "exit_thresholds": [0.5], "max_proposal": 2},
    "user": "u",
}
BODIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", DRAWING | {"messages": [USER], "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", DRAWING | {"messages": [USER], "response_format": FORMAT}),
    (
        "/v1/chat/completions",
        DRAWING
        | {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "4"}]},
            ],
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
    ),
    ("/v1/completions", DRAWING | {"prompt": "hi", "logprobs": 2, "min_tokens": 1}),
    ("/v1/completions", DRAWING | {"prompt": [[5, 6], [7]], "ignore_eos": True}),
    ("/tokenize", {"model": "tiny", "messages": [USER], "tools": [TOOL]}),
    ("/tokenize", {"model": "tiny", "prompt": "hi", "return_token_strs": True}),
    ("/detokenize", {"model": "tiny", "tokens": [5, 6, 7]}),
)
NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 16, 17, 2**31, 2**53, 2**63, 2**64, -(2**70), 10**400, 0.5, -0.0,
    1e308, 5e-324, float("nan"), float("inf"), "", "a", "é", "\x00", "\ud800", "𝔘", "a" * 5_000,
    "none", "required", "json_object", "tiny", "<|end|>", "<tool_call>", "{{ 1 / 0 }}", "../..",
    [], {}, [None], [[]], [{}], {"": None}, {"$ref": "#"}, {"type": "object"}, {"type": "x"},
    {"$ref": "#/nowhere"}, {"pattern": "("}, {"type": "string", "pattern": "(a+)+$"},
    {"anyOf": []}, {"enum": []}, {"not": {}}, {"minItems": 10**9, "type": "array"}, [1] * 1_000,
)  # fmt: skip


def malformed(random_numbers: random.Random) -> tuple[str, bytes]:
    """A path and a body: a valid one with a few things changed, as JSON or as bytes."""
    path, body = random_numbers.choice(BODIES)
    tree: Any = copy.deepcopy(body)
    for _ in range(random_numbers.randint(1, 3)):
        tree = _changed(tree, random_numbers)
    if isinstance(tree, dict) and tree.get("max_tokens") == DRAWING["max_tokens"]:
        tree["max_tokens"] = random_numbers.randint(1, 24)
    raw = json.dumps(tree).encode()
    if random_numbers.random() < 0.3:
        raw = _damaged(raw, random_numbers)
    return path, raw


def _nasty(random_numbers: random.Random) -> Any:
    return copy.deepcopy(random_numbers.choice(NASTY))


def _changed(tree: Any, random_numbers: random.Random) -> Any:
    """The tree with one node replaced, removed, added or wrapped."""
    places = list(_places(tree))
    if not places:
        return _nasty(random_numbers)
    parent, key = random_numbers.choice(places)
    what = random_numbers.choice(("replace", "replace", "replace", "remove", "add", "wrap", "deep"))
    if what == "replace":
        parent[key] = _nasty(random_numbers)
    elif what == "remove":
        del parent[key]
    elif what == "wrap":
        parent[key] = random_numbers.choice(([parent[key]], {"x": parent[key]}))
    elif what == "deep":
        for _ in range(random_numbers.choice((3, 70, 150, 300))):
            parent[key] = random_numbers.choice(([parent[key]], {"items": parent[key]}))
    elif isinstance(parent, dict):
        parent[random_numbers.choice(("x", "", "n", "echo", "tools", "é\n", "$ref"))] = _nasty(
            random_numbers
        )
    else:
        parent.append(_nasty(random_numbers))
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every node below the root."""
    found: list[tuple[Any, Any]] = []
    keys = (
        list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    )
    for key in keys:
        found.append((tree, key))
        found += _places(tree[key])
    return found


def _damaged(raw: bytes, random_numbers: random.Random) -> bytes:
    """The bytes cut, doubled, or with some of them replaced."""
    place = random_numbers.randrange(len(raw) + 1)
    what = random_numbers.choice(("cut", "byte", "insert", "double", "number", "empty"))
    if what == "cut":
        return raw[:place]
    if what == "byte":
        return raw[:place] + bytes([random_numbers.randrange(256)]) + raw[place + 1 :]
    if what == "insert":
        part = random_numbers.choice((b"\xff", b"\x00", b"\xed\xa0\x80", b"{", b"[" * 500, b"\\u"))
        return raw[:place] + part + raw[place:]
    if what == "double":
        return raw + raw
    if what == "number":
        return raw.replace(b"0.5", random_numbers.choice((b"1e999", b"-", b"00", b"9" * 9_000)))
    return b""
