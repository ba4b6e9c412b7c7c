"""Function calls in a model's text, found while it arrives. Pure: text in, pieces out.

Two forms are known: `<tool_call>{"name": ..., "arguments": ...}</tool_call>` anywhere (Hermes,
Qwen), and a text that is such a JSON object and nothing else (Llama, with `parameters`). What does
not parse, or names a function that was not offered, stays text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

OPEN, CLOSE = "<tool_call>", "</tool_call>"
CALL_KEYS = ("name", "arguments", "parameters", "type", "id")


@dataclass(frozen=True)
class Call:
    """A call begins here; `arguments` is JSON text, or the beginning of it."""

    name: str
    arguments: str = ""


@dataclass(frozen=True)
class MoreArguments:
    """The arguments of the last call go on."""

    text: str


Piece = str | Call | MoreArguments


class Reader(Protocol):
    """Turns the text of one choice into pieces."""

    def push(self, text: str) -> list[Piece]:
        """More of the text; -> what it makes final."""

    def finish(self) -> list[Piece]:
        """The text has ended; -> what was held back."""


class PlainReader:
    """All is text."""

    def push(self, text: str) -> list[Piece]:
        """See `Reader`."""
        return [text] if text else []

    def finish(self) -> list[Piece]:
        """See `Reader`."""
        return []


class NamedReader:
    """All is the arguments of one function, since the text was held to their schema."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._has_begun = False

    def push(self, text: str) -> list[Piece]:
        """See `Reader`."""
        if not text:
            return []
        piece = MoreArguments(text) if self._has_begun else Call(self._name, text)
        self._has_begun = True
        return [piece]

    def finish(self) -> list[Piece]:
        """See `Reader`."""
        return []


class RequiredReader:
    """All is one call, since the text was held to that; if it was cut off, it stays text."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._text = ""

    def push(self, text: str) -> list[Piece]:
        """See `Reader`."""
        self._text += text
        return []

    def finish(self) -> list[Piece]:
        """See `Reader`."""
        return [read_call(self._text, self._names) or self._text] if self._text else []


class AutoReader:
    """Text with calls in it. White space beside a call is dropped."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._held = ""
        self._has_begun = False
        self._after_call = False

    def push(self, text: str) -> list[Piece]:
        """See `Reader`; from a possible marker on, text is held back."""
        self._held += text
        return self._release(final=False)

    def finish(self) -> list[Piece]:
        """See `Reader`."""
        return self._release(final=True)

    def _release(self, *, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while self._held and (found := self._next(final)) is not None:
            piece, self._held = found
            if piece:
                pieces.append(piece)
                self._has_begun = True
            self._after_call = isinstance(piece, Call) or (self._after_call and not piece)
        return pieces

    def _next(self, final: bool) -> tuple[Piece, str] | None:
        """The first piece of the held text and what is left, None if it cannot be told yet."""
        body = self._held.lstrip()
        space = "" if self._after_call else self._held[: len(self._held) - len(body)]
        if not body:
            return (space, "") if final else None
        if body.startswith(OPEN):
            return self._marked(body, space, final)
        if OPEN.startswith(body) and not final:
            return None
        if not self._has_begun and may_become_call(body):
            if not final:
                return None
            if call := read_call(body, self._names):
                return call, ""
        end = _possible_marker(body)
        if end == len(body) and final:
            return space + body, ""
        kept = body[:end].rstrip()
        return space + kept, body[len(kept) :]

    def _marked(self, body: str, space: str, final: bool) -> tuple[Piece, str] | None:
        inner, close, rest = body[len(OPEN) :].partition(CLOSE)
        if not close and not final:
            return None
        return read_call(inner, self._names) or space + OPEN + inner + close, rest


def read_call(text: str, names: frozenset[str]) -> Call | None:
    """The call that a JSON text is, if it is one of a function in `names`."""
    try:
        call = json.loads(text, parse_constant=_refuse)
        if not isinstance(call, dict) or not call.keys() <= set(CALL_KEYS):
            return None
        arguments = call.get("arguments", call.get("parameters"))
        if isinstance(arguments, str):
            arguments = json.loads(arguments, parse_constant=_refuse)
        if call.get("name") not in names or not isinstance(arguments, dict):
            return None
        return Call(call["name"], _as_json(arguments))
    except (ValueError, TypeError, RecursionError):
        return None


def may_become_call(text: str) -> bool:
    """Whether a text that begins so may still turn out to be nothing but a call."""
    if not text.startswith("{"):
        return False
    start = text[1:].lstrip()
    return not start or any(
        start.startswith(quoted) or quoted.startswith(start)
        for quoted in (f'"{key}"' for key in CALL_KEYS)
    )


def _possible_marker(text: str) -> int:
    """Where, behind its first character, an opening marker stands or may be about to."""
    place = text.find("<", 1)
    while place >= 0 and not (
        text.startswith(OPEN, place) or OPEN.startswith(text[place : place + len(OPEN)])
    ):
        place = text.find("<", place + 1)
    return len(text) if place < 0 else place


def _as_json(arguments: dict[str, Any]) -> str:
    """Raises ValueError for what no JSON text in UTF-8 can say."""
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    text.encode()
    return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
