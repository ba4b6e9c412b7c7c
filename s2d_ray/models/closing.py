"""The shortest way to end a JSON text that a grammar has begun.

Searched byte by byte through a matcher of the same grammar without white space, so it knows no
schema: best ways first, up to a fixed number of steps. Runs of forced bytes cost one step, and a
bracket or quote that closes something, where it is allowed, is the only way looked at.
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
_ASCII = set(range(0x20, 0x80))
_DIGITS = set(range(0x30, 0x3A))
# Capitals first, for the T and Z of a timestamp; no digit 0 where another will do, for its year.
_LETTERS = (set(range(0x41, 0x5B)), set(range(0x61, 0x7B)), _DIGITS - {0x30}, {0x30})
_KINDS = (*_LETTERS, *({byte} for byte in sorted(_ASCII - set().union(*_LETTERS))))
_MANY = 8
_QUOTE, _BACKSLASH = 0x22, 0x5C


@dataclass(frozen=True)
class Lexer:
    """Where a prefix of a JSON text ends: how deep in brackets, in a string, behind a backslash."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False

    def read(self, data: bytes) -> tuple[Lexer, bytes]:
        """The state behind `data`, and `data` without the white space between its parts."""
        depth, in_string, escaped = self.depth, self.in_string, self.escaped
        compact = bytearray()
        for byte in data:
            if in_string or byte not in b" \n":
                compact.append(byte)
            if escaped:
                escaped = False
            elif byte == _QUOTE:
                in_string = not in_string
            elif in_string:
                escaped = byte == _BACKSLASH
            else:
                depth += (byte in b"[{") - (byte in b"]}")
        return Lexer(depth, in_string, escaped), bytes(compact)

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
    seen: dict[tuple[Lexer, bytes, bytes, bytes], bytes] = {}
    number = itertools.count()
    heap = [(lexer.least, 0, next(number), matcher, lexer, b"", b"")]
    for _ in range(MAX_STEPS):
        if not heap:
            return None
        *_, here, lexer, way, shape = heapq.heappop(heap)
        if here.is_accepting():
            return way
        # Where the same may follow as behind another way that is no longer, nothing is gained; but
        # an array that still lacks items looks the same behind each of them, and within a member
        # only ways compare that differ in bytes as good as each other.
        looks = (lexer, *_looks(here), shape)
        earlier = seen.setdefault(looks, way)
        if len(earlier) <= len(way) and not way.startswith(earlier):
            continue
        for step, step_shape in _steps(here, lexer, byte_tokens):
            there, behind, longer = (
                _behind(here, step, byte_tokens),
                lexer.read(step)[0],
                way + step,
            )
            rank = (len(longer) + behind.least, -len(longer), next(number))
            heapq.heappush(heap, (*rank, there, behind, longer, _in_member(shape + step_shape)))
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


def _in_member(shape: bytes) -> bytes:
    """The shape since the last member or container ended."""
    return shape[max(map(shape.rfind, (b",", b"}", b"]"))) + 1 :]


def _looks(matcher: LLMatcher) -> tuple[bytes, bytes]:
    """What may come next, as far as it shows."""
    return matcher.compute_bitmask(), matcher.compute_ff_bytes()


def _steps(
    matcher: LLMatcher, lexer: Lexer, byte_tokens: Mapping[int, int]
) -> list[tuple[bytes, bytes]]:
    """Ways on that may belong to a shortest one, each with its shape: "?" for any of many bytes."""
    mask, forced = _looks(matcher)
    if forced and all(byte in byte_tokens for byte in forced):
        return [(forced, forced)]
    bits = np.frombuffer(mask, dtype=np.uint8)
    allowed = {byte for byte, token in byte_tokens.items() if bits[token >> 3] >> (token & 7) & 1}
    if lexer.in_string:
        return _steps_in_string(matcher, allowed, byte_tokens)
    for closer in b"}],:":
        if closer in allowed:
            return [(bytes([closer]), bytes([closer]))]
    digits = [byte for byte in _OUTSIDE if byte in allowed and byte in _DIGITS]
    others = [byte for byte in _OUTSIDE if byte in allowed and byte not in _DIGITS]
    return [(bytes([byte]), b"?") for byte in [*digits[:2], *others]]


def _steps_in_string(
    matcher: LLMatcher, allowed: set[int], byte_tokens: Mapping[int, int]
) -> list[tuple[bytes, bytes]]:
    """The end if it is allowed, else bytes that go on.

    Of digits, and of many bytes, one stands for all behind which the same may follow, and one that
    leaves everything as it was is used only for want of others. A few letters may tell keys or
    options apart, so each of them is a way of its own.
    """
    if _QUOTE in allowed:
        return [(b'"', b'"')]
    allowed = allowed - {_BACKSLASH}
    if not allowed & _ASCII:  # inside a character that has begun
        return [(bytes([min(allowed)]), b"?")] if allowed else []
    steps: dict[object, tuple[bytes, bytes]] = {}
    for kind in _KINDS:
        members = sorted(allowed & kind)
        for byte in members[:2] if len(members) > _MANY else members:
            step = bytes([byte])
            if byte in _DIGITS or len(allowed) > _MANY:
                looks = _looks(_behind(matcher, step, byte_tokens))
                steps.setdefault(looks, (step, b"?"))
            else:
                steps[step] = (step, step)
    here = _looks(matcher)
    return [step for looks, step in steps.items() if looks != here] or list(steps.values())
