"""Which class of task a request belongs to, by what can be seen of its prompt. Pure.

Classes differ in how well guesses do: code is repetitive, answers about a long context quote it.
"""

from __future__ import annotations

import re
from enum import StrEnum

LONG_PROMPT = 1_000
"""Tokens from which a prompt counts as a context that is asked about."""

CODE, OVERLAP = 0.3, 0.3
"""Shares from which a prompt counts as code, or as repeating its own context."""

LOOKED_AT = 20_000
"""Characters at the end of a prompt: what is asked stands there."""

GRAM = 4
"""Words that must recur together to count as repeated."""

_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CODE_LINE = re.compile(
    r"^\s*(?:(?:def|class|import|from|return|if|for|while|else|elif|func|fn|let|const|var|public|"
    r"private|static|void|int|#include|SELECT|INSERT|UPDATE)\b.*[:;(){}=]\s*$|.*[;{}]\s*$|@\w+)"
)


class Task(StrEnum):
    """The classes that are told apart here; a request may name another one."""

    CHAT = "chat"
    CODE = "code"
    CONTEXT = "context"


def task_class(
    prompt_tokens: int, code_share: float, overlap: float, explicit: str | None = None
) -> str:
    """The class of a request; what it names itself in `s2d.task` wins."""
    if explicit:
        return explicit
    if code_share >= CODE:
        return Task.CODE
    if prompt_tokens >= LONG_PROMPT or overlap >= OVERLAP:
        return Task.CONTEXT
    return Task.CHAT


def code_share(text: str) -> float:
    """Share of a text's characters in fenced blocks, and in lines that look like code."""
    text = text[-LOOKED_AT:]
    fenced = sum(len(block) for block in _FENCE.findall(text))
    rest = _FENCE.sub("", text)
    looking = sum(len(line) for line in rest.splitlines() if _CODE_LINE.match(line))
    return (fenced + looking) / max(1, len(text))


def overlap(text: str) -> float:
    """Share of runs of `GRAM` words that occurred before in the same text."""
    words = text[-LOOKED_AT:].split()
    grams = [tuple(words[place : place + GRAM]) for place in range(len(words) - GRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
