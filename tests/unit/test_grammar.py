"""JSON grammars: what is allowed, the shortest closing, and the budget."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from s2d_ray.core.params import JsonFormat
from s2d_ray.errors import RequestError
from s2d_ray.models.closing import Lexer
from s2d_ray.models.grammar import GrammarState
from tests.tiny import EOS, tiny_vocabulary

VOCABULARY = tiny_vocabulary()


def start(schema: Any) -> GrammarState:
    return VOCABULARY.start(JsonFormat(json.dumps(schema)))


def as_bytes(tokens: list[int] | None) -> bytes:
    assert tokens is not None
    return b"".join(map(VOCABULARY.bytes_of, tokens))


def spelled(tokens: list[int] | None) -> str:
    return as_bytes(tokens).decode()


def walk(state: GrammarState, rng: random.Random, num_tokens: int) -> tuple[GrammarState, bytes]:
    """Allowed tokens at random, but no end of text."""
    text = b""
    for _ in range(num_tokens):
        allowed = [i for i in torch.nonzero(state.allowed).flatten().tolist() if i != EOS]
        if not allowed:
            break
        token = rng.choice(allowed)
        state, text = state.after(token), text + VOCABULARY.bytes_of(token)
    return state, text


@pytest.mark.parametrize(
    ("schema", "shortest"),
    [
        ({"type": "object"}, "{}"),
        ({"const": "abc"}, '"abc"'),
        ({"enum": ["lightgreen", "red", "blue"]}, '"red"'),
        ({"anyOf": [{"type": "boolean"}, {"type": "string"}]}, '""'),
        ({"type": "array", "items": {"type": "number"}, "minItems": 3}, "[0,0,0]"),
        ({"type": "integer", "minimum": 100, "maximum": 999}, "100"),
        ({"type": "string", "minLength": 40}, '"' + "A" * 40 + '"'),
        ({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}, '"1111-11"'),
        (
            {
                "type": "object",
                "properties": {
                    "skip": {"type": "object", "properties": {"x": {}}, "required": ["x"]},
                    "name": {"type": "string"},
                    "kind": {"enum": ["long one", "no"]},
                },
                "required": ["name", "kind"],
            },
            '{"name":"","kind":"no"}',
        ),
        (
            {
                "$defs": {
                    "node": {
                        "type": "object",
                        "properties": {
                            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
                        },
                        "required": ["next"],
                    }
                },
                "$ref": "#/$defs/node",
            },
            '{"next":null}',
        ),
    ],
)
def test_the_closing_of_an_empty_text_is_the_shortest_document(schema: Any, shortest: str) -> None:
    assert spelled(start(schema).closing) == shortest


@pytest.mark.parametrize(
    ("kind", "parse"),
    [
        ("date", datetime.date.fromisoformat),
        ("time", datetime.time.fromisoformat),
        ("date-time", datetime.datetime.fromisoformat),
        ("uuid", uuid.UUID),
        ("email", lambda text: re.fullmatch(r"\w+@\w+", text)),
        ("ipv4", ipaddress.IPv4Address),
        ("ipv6", ipaddress.IPv6Address),
    ],
)
def test_strings_with_a_format_can_be_closed(kind: str, parse: Callable[[str], object]) -> None:
    assert parse(json.loads(spelled(start({"type": "string", "format": kind}).closing)))


leaves = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 2, "maxLength": 5},
        {"type": "integer"},
        {"type": "integer", "minimum": 10, "maximum": 20},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["aa", "b", "ccc"]},
        {"const": 7},
    ]
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.builds(
        lambda items, count: {"type": "array", "items": items, "minItems": count, "maxItems": 3},
        inner,
        st.integers(0, 2),
    )
    objects = st.builds(
        lambda parts, required: {
            "type": "object",
            "properties": dict(zip("pqr", parts, strict=False)),
            "required": [key for key in "pqr"[: len(parts)] if key in required],
            "additionalProperties": False,
        },
        st.lists(inner, min_size=1, max_size=3),
        st.sets(st.sampled_from("pqr")),
    )
    return arrays | objects


schemas = st.recursive(leaves, containers, max_leaves=5)


def shortest_of(schema: Any) -> int:
    """Bytes of the shortest document, from the schema alone."""
    if "const" in schema or "enum" in schema:
        options = [schema["const"]] if "const" in schema else schema["enum"]
        return min(len(json.dumps(option)) for option in options)
    match schema["type"]:
        case "string":
            return 2 + int(schema.get("minLength", 0))
        case "integer":
            return len(str(schema.get("minimum", 0)))
        case "boolean" | "null":
            return 4
        case "array":
            count = schema["minItems"]
            return 2 + count * shortest_of(schema["items"]) + max(0, count - 1)
    parts = [len(key) + 3 + shortest_of(schema["properties"][key]) for key in schema["required"]]
    return 2 + sum(parts) + max(0, len(parts) - 1)


@settings(max_examples=60, deadline=None)
@given(schema=schemas, seed=st.integers(0, 999), num_tokens=st.integers(0, 40))
def test_from_anywhere_the_closing_makes_a_valid_document(
    schema: Any, seed: int, num_tokens: int
) -> None:
    """At the start it is as short as the schema says; later, what was begun is completed."""
    state = start(schema)
    assert len(spelled(state.closing)) == shortest_of(schema)
    state, text = walk(state, random.Random(seed), num_tokens)
    document = json.loads(text + as_bytes(state.closing))
    Draft202012Validator(schema).validate(document)


@settings(max_examples=40, deadline=None)
@given(schema=schemas, seed=st.integers(0, 999), slack=st.integers(0, 12))
def test_a_text_of_fitting_tokens_is_complete_within_its_budget(
    schema: Any, seed: int, slack: int
) -> None:
    """Whatever is drawn among the tokens that fit; with no slack, nothing but the closing fits."""
    rng = random.Random(seed)
    state = start(schema)
    assert state.closing is not None
    num_left = len(state.closing) + slack
    text = b""
    while num_left > 0 and not state.finished:
        fitting = [i for i in range(VOCABULARY.num_ids) if state.fits(i, num_left)]
        assert fitting, "a text that fitted cannot be continued"
        token = rng.choice(fitting)
        if token == EOS:
            break
        state, text = state.after(token), text + VOCABULARY.bytes_of(token)
        num_left -= 1
    Draft202012Validator(schema).validate(json.loads(text))


def test_a_state_is_never_changed_by_the_tokens_behind_it() -> None:
    state, _ = walk(start({"type": "object"}), random.Random(1), 3)
    before = (state.allowed.clone(), spelled(state.closing), state.finished)
    for seed in range(5):
        walk(state, random.Random(seed), 10)
    assert torch.equal(state.allowed, before[0])
    assert (spelled(state.closing), state.finished) == before[1:]


def test_a_complete_text_is_finished_and_only_its_end_fits() -> None:
    state = start({"const": 7})
    state = state.after(VOCABULARY.byte_tokens[ord("7")])
    assert state.closing == []
    assert state.fits(EOS, 1)
    assert not state.fits(VOCABULARY.byte_tokens[ord("7")], 9)


@pytest.mark.parametrize(
    "schema",
    [{"type": "foo"}, {"not": {}}, {"$ref": "#/nowhere"}, 3, {"type": "string", "pattern": "("}],
)
def test_a_schema_that_cannot_be_followed_is_refused_by_field(schema: Any) -> None:
    with pytest.raises(RequestError) as caught:
        start(schema)
    assert caught.value.param == "response_format"
    assert "\n" not in caught.value.message


@given(st.text(alphabet='a"\\{}[]:,1 \n', max_size=20), st.integers(0, 20))
def test_the_lexer_may_read_in_any_pieces(text: str, cut: int) -> None:
    data = text.encode()
    whole, compact = Lexer().read(data)
    half, first = Lexer().read(data[:cut])
    assert half.read(data[cut:]) == (whole, compact[len(first) :])
    assert compact.startswith(first)


@settings(max_examples=40, deadline=None)
@given(
    value=st.recursive(st.none() | st.text(max_size=5) | st.integers(), st.lists),
    indent=st.sampled_from([None, 1]),
)
def test_without_white_space_a_text_means_the_same(value: Any, indent: int | None) -> None:
    lexer, compact = Lexer().read(json.dumps(value, indent=indent).encode())
    assert lexer == Lexer()
    assert compact.decode() == json.dumps(value, separators=(",", ":"))


def test_spelling_takes_the_fewest_tokens() -> None:
    spelling = VOCABULARY.spell(b'{"a":1}')
    assert spelling is not None
    assert spelled(spelling) == '{"a":1}'
    assert len(spelling) == 7  # every tiny token is one byte
    assert VOCABULARY.spell(b"\x00") is None
