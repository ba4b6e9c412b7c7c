"""Spans of a trace as plain data, named as W3C's `traceparent` names them. Stdlib only.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

TRACEPARENT = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_NO_VERSION, _NO_TRACE, _NO_SPAN = "ff", "0" * 32, "0" * 16


@dataclass(frozen=True)
class Span:
    """Something that a traced request did. parent: what it was part of.

    traceparent: its own name. started_ns, ended_ns: Unix time. failed: whether it went wrong.
    """

    name: str
    traceparent: str
    parent: str
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, str | int | float]
    failed: bool = False

    @property
    def ids(self) -> tuple[int, int, int]:
        """Of the trace, of the span, of its parent."""
        _, trace, span, _ = self.traceparent.split("-")
        return int(trace, 16), int(span, 16), int(self.parent.split("-")[2], 16)


Export = Callable[[Span], None]
"""Takes a span that has ended; must not block or raise."""


def asked_for(header: str | None) -> str:
    """The header of a request, if it asks for a trace: well-formed, and sampled; else empty."""
    found = _FORM.fullmatch(header or "")
    if found is None:
        return ""
    version, trace, span, flags, rest = found.groups()
    if version == _NO_VERSION or trace == _NO_TRACE or span == _NO_SPAN:
        return ""
    if rest and version == "00":
        return ""
    return f"00-{trace}-{span}-01" if int(flags, 16) & _SAMPLED else ""


def child_of(parent: str) -> str:
    """The name of a new span within another."""
    return f"00-{parent.split('-')[1]}-{secrets.token_hex(8)}-01"
