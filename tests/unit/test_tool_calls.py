"""Calls of functions are found in a text however it is cut, and nothing else is lost or changed."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.serve.openai.toolcalls import (
    AutoReader,
    Call,
    MoreArguments,
    NamedReader,
    Piece,
    PlainReader,
    Reader,
    RequiredReader,
)

NAMES = frozenset({"add", "get_weather"})
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
BARE = '{"name": "add", "parameters": {"a": 1}}'
ADD = Call("add", '{"a": 1}')


def read(reader: Reader, parts: Sequence[str]) -> list[Piece]:
    pieces = [piece for part in parts for piece in reader.push(part)]
    return join([*pieces, *reader.finish()])


def join(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring texts as one: they may be cut anywhere."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


EXAMPLES: list[tuple[str, list[Piece]]] = [
    ("", []),
    ("no call at all", ["no call at all"]),
    ("  spaces stay \n", ["  spaces stay \n"]),
    (" \n", [" \n"]),
    (CALL, [ADD]),
    (f"\n{CALL}\n", [ADD]),
    (f"{CALL}\n{CALL}", [ADD, ADD]),
    (f"Let me see.\n\n{CALL}", ["Let me see.", ADD]),
    (f"Let me see. {CALL} Done. ", ["Let me see.", ADD, "Done. "]),
    ('<tool_call>{"name": "add", "arguments": {"a": 1}}', [ADD]),
    (CALL[:-20], [CALL[:-20]]),
    ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', [ADD]),
    ('<tool_call>{"name": "add", "parameters": {"a": 1}}</tool_call>', [ADD]),
    (CALL.replace("1", '"ü"'), [Call("add", '{"a": "ü"}')]),
    ("a < b <tool_ <tool", ["a < b <tool_ <tool"]),
    ("a <<tool_call>x</tool_call>", ["a <<tool_call>x</tool_call>"]),
    (f"a <{CALL}", ["a <", ADD]),
    (BARE, [ADD]),
    ('\n {"name": "add", "arguments": {"a": 1}} \n', [ADD]),
    ('{"type": "function", "name": "add", "parameters": {"a": 1}}', [ADD]),
    (f"{BARE} and more", [f"{BARE} and more"]),
    (f"See {BARE}", [f"See {BARE}"]),
    ('{"answer": 4}', ['{"answer": 4}']),
    ("{}", ["{}"]),
    ('{"name": "Bob"}', ['{"name": "Bob"}']),
    (f'{{"name": "x"}} {CALL}', ['{"name": "x"}', ADD]),
    (f"<tool_call>bad</tool_call> {CALL}", ["<tool_call>bad</tool_call>", ADD]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EXAMPLES)
def test_calls_by_example_whole_and_character_by_character(
    text: str, expected: list[Piece]
) -> None:
    assert read(AutoReader(NAMES), [text]) == expected
    assert read(AutoReader(NAMES), list(text)) == expected


BAD_CALLS = [
    "[]",
    "null",
    "add",
    '{"name": "remove", "arguments": {}}',
    '{"name": ["add"], "arguments": {}}',
    '{"name": "add"}',
    '{"name": "add", "arguments": []}',
    '{"name": "add", "arguments": "[]"}',
    '{"name": "add", "arguments": "{"}',
    '{"name": "add", "arguments": {"a": NaN}}',
    '{"name": "add", "arguments": {"a": 1e999}}',
    '{"name": "add", "arguments": {"a": "\\ud800"}}',
    '{"name": "add", "arguments": {}, "result": 4}',
    '{"name": "add", "arguments": ' + "[" * 100_000,
    '{"name": "add", "arguments": {"a": ' + "9" * 5_000 + "}}",
]


@pytest.mark.parametrize("bad", BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_what_is_no_call_of_an_offered_function_stays_text(bad: str) -> None:
    for text in (f"<tool_call>{bad}</tool_call>", f"<tool_call>{bad}", bad):
        assert read(AutoReader(NAMES), [text]) == [text]


FRAGMENTS = st.sampled_from(
    [CALL, "<tool_call>", "</tool_call>", "<", "tool_call>", " ", "\n", "hello", "{", "}"]
    + ['{"name": "add", "arguments": {}}', '{"name"', ': "add", "parameters": {"a": 1}}']
)


@settings(deadline=None, max_examples=500)
@given(fragments=st.lists(FRAGMENTS, max_size=8), cuts=st.lists(st.integers(0, 200), max_size=12))
def test_the_pieces_do_not_depend_on_how_the_text_is_cut(
    fragments: list[str], cuts: list[int]
) -> None:
    text = "".join(fragments)
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    parts = [text[a:b] for a, b in zip(places, places[1:], strict=False)]
    pieces = read(AutoReader(NAMES), [text])
    assert read(AutoReader(NAMES), parts) == pieces
    if not any(isinstance(piece, Call) for piece in pieces):
        assert "".join(piece for piece in pieces if isinstance(piece, str)) == text


@pytest.mark.parametrize("text", ["hello <b> {world}", "1 < 2", "a <tools", '{"answer": 4'])
def test_only_what_may_become_a_call_is_held_back(text: str) -> None:
    reader = AutoReader(NAMES)
    assert reader.push(text) == [text]


@pytest.mark.parametrize(
    ("text", "told"),
    [("a <tool_c", "a"), ("a ", "a"), ('{"na', ""), ('{"name": "Bob", "x', ""), (CALL[:-1], "")],
)
def test_what_may_become_a_call_is_held_back(text: str, told: str) -> None:
    reader = AutoReader(NAMES)
    assert reader.push(text) == ([told] if told else [])


def test_arguments_of_a_forced_function_are_told_as_they_arrive() -> None:
    reader = NamedReader("add")
    assert reader.push("") == []
    assert reader.push('{"a"') == [Call("add", '{"a"')]
    assert reader.push(": 1}") == [MoreArguments(": 1}")]
    assert reader.finish() == []


def test_a_required_call_is_told_once_it_is_whole_and_stays_text_if_it_was_cut_off() -> None:
    text = json.dumps({"name": "add", "arguments": {"a": 1}})
    assert read(RequiredReader(NAMES), list(text)) == [ADD]
    assert read(RequiredReader(NAMES), [text[:-1]]) == [text[:-1]]
    assert read(RequiredReader(NAMES), []) == []


def test_without_tools_nothing_is_held_back() -> None:
    assert PlainReader().push(CALL) == [CALL]
    assert read(PlainReader(), ["", "<tool_call>"]) == ["<tool_call>"]
