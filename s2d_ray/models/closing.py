"""The shortest way to end a JSON text that a grammar has begun.

Searched byte by byte through the grammar's own matcher, so it knows no schema: best ways first, up
to a fixed number of steps. Runs of forced bytes cost one step, and a bracket or quote that closes
something, where it is allowed, is the only way looked at.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher

MAX_STEPS = 1_000
"""Matchers looked at in one search before it gives up."""

_OUTSIDE = b',:0123456789"tfnruealsE.+-[{'
# Capitals first, for the T and Z of a timestamp.
_LETTERS = (set(range(0x41, 0x5B)), set(range(0x61, 0x7B)), set(range(0x30, 0x3A)))
_OTHERS = [{byte} for byte in range(0x20, 0x80) if not any(byte in kind for kind in _LETTERS)]
_CLASSES = (*_LETTERS, *_OTHERS, set(range(0x80, 0x100)))
_MANY = 8
_QUOTE, _BACKSLASH = 0x22, 0x5C


@dataclass(frozen=True)
class Lexer:
    """Where a prefix of a JSON text ends: how deep in brackets, in a string, behind a backslash."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False

    def read(self, data: bytes) -> Lexer:
        """The state behind `data`."""
        depth, in_string, escaped = self.depth, self.in_string, self.escaped
        for byte in data:
            if escaped:
                escaped = False
            elif byte == _QUOTE:
                in_string = not in_string
            elif in_string:
                escaped = byte == _BACKSLASH
            else:
                depth += (byte in b"[{") - (byte in b"]}")
        return Lexer(depth, in_string, escaped)

    @property
    def least(self) -> int:
        """Bytes that any completion needs."""
        return self.depth + self.in_string


def shortest_closing(
    matcher: LLMatcher, lexer: Lexer, byte_tokens: Mapping[int, int]
) -> bytes | None:
    """Bytes that complete what `matcher` has read; None if none were found.

    byte_tokens: byte -> a token that stands for it alone. The matcher itself is not moved.
    """
    seen: dict[tuple[Lexer, bytes, bytes, int], bytes] = {}
    number = itertools.count()
    heap = [(lexer.least, 0, next(number), matcher, lexer, b"")]
    for _ in range(MAX_STEPS):
        if not heap:
            return None
        *_, here, lexer, way = heapq.heappop(heap)
        if here.is_accepting():
            return way
        # Where the same may follow as behind another way that is no longer, nothing is gained; but
        # an array that still lacks items looks the same behind each of them, and in a string like
        # a date only places of the same number compare.
        place = len(way) if lexer.in_string else -1
        looks = (lexer, here.compute_bitmask(), here.compute_ff_bytes(), place)
        earlier = seen.setdefault(looks, way)
        if len(earlier) <= len(way) and not way.startswith(earlier):
            continue
        for step in _steps(here, lexer, byte_tokens):
            there, behind, longer = _behind(here, step, byte_tokens), lexer.read(step), way + step
            rank = (len(longer) + behind.least, -len(longer), next(number))
            heapq.heappush(heap, (*rank, there, behind, longer))
    return None


def continues(matcher: LLMatcher, data: bytes, byte_tokens: Mapping[int, int]) -> bool:
    """Whether `data` completes what the matcher has read."""
    there = matcher.deep_copy()
    tokens = [byte_tokens[byte] for byte in data]
    return there.try_consume_tokens(tokens) == len(tokens) and there.is_accepting()


def _behind(matcher: LLMatcher, step: bytes, byte_tokens: Mapping[int, int]) -> LLMatcher:
    there = matcher.deep_copy()
    there.try_consume_tokens([byte_tokens[byte] for byte in step])
    return there


def _steps(matcher: LLMatcher, lexer: Lexer, byte_tokens: Mapping[int, int]) -> list[bytes]:
    """Ways on that may belong to a shortest one."""
    forced = matcher.compute_ff_bytes()
    if forced and all(byte in byte_tokens for byte in forced):
        return [forced]
    mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    allowed = {byte for byte, token in byte_tokens.items() if mask[token >> 3] >> (token & 7) & 1}
    if lexer.in_string:
        return _steps_in_string(matcher, allowed, byte_tokens)
    for closer in b"}],:":
        if closer in allowed:
            return [bytes([closer])]
    digits = [byte for byte in _OUTSIDE if byte in allowed and 0x30 <= byte <= 0x39]
    others = [byte for byte in _OUTSIDE if byte in allowed and byte not in digits]
    return [bytes([byte]) for byte in [*digits[:2], *others]]


def _steps_in_string(
    matcher: LLMatcher, allowed: set[int], byte_tokens: Mapping[int, int]
) -> list[bytes]:
    """The end if it is allowed; else one byte for each set of bytes that may come behind it."""
    if _QUOTE in allowed:
        return [b'"']
    behind: dict[bytes, bytes] = {}
    for byte in _representatives(allowed - {_BACKSLASH}):
        there = _behind(matcher, bytes([byte]), byte_tokens)
        behind.setdefault(there.compute_bitmask(), bytes([byte]))
    return list(behind.values())


def _representatives(allowed: set[int]) -> list[int]:
    """All of a few bytes; two of each large class, since most letters are as good as another."""
    chosen: list[int] = []
    for kind in _CLASSES:
        members = sorted(allowed & kind)
        chosen += members[:2] if len(members) > _MANY else members
    ascii_only = [byte for byte in chosen if byte < 0x80]
    return ascii_only or chosen  # others only inside a character that has begun
