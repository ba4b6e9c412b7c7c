"""Prompts of a corpus: read from JSONL, each named once, some of them held out for good."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from s2d_ray.errors import DataError, RequestError

Ids = tuple[int, ...]
Encode = Callable[[Sequence[Mapping[str, Any]]], list[int]]
"""A chat template: messages to ids; see `models.text.Text.encode_chat`."""

FIELDS = ("prompt", "messages", "turns")


@dataclass(frozen=True)
class Prompts:
    """Prompts as ids. answers: to each, where they were asked for.

    repeated: lines left out because an earlier one has the same ids. bad: one line
    `file:line: reason` for each line that was left out because it is wrong.
    """

    ids: tuple[Ids, ...]
    repeated: int = 0
    bad: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


def read_prompts(
    path: Path, encode: Encode, max_length: int, answers: str | None = None
) -> Prompts:
    """The prompts of a JSONL file, one object a line with one of `FIELDS`.

    `prompt` is one user message, `messages` a conversation that ends with one, and of `turns`, the
    user's side of a conversation, the first is taken. A wrong line is left out and reported.
    max_length: longest prompt in tokens. answers: the field that holds a line's answer, if they are
    wanted.
    Raises DataError if the file cannot be read or no line of it is of use.
    """
    found: dict[Ids, str] = {}
    bad: list[str] = []
    repeated = 0
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields = _fields(line)
            ids = tuple(encode(_messages(fields)))
            answer = _text(fields, answers) if answers else ""
            if len(ids) > max_length:
                raise ValueError(f"has {len(ids)} tokens; at most {max_length} leave room")
        except (ValueError, RequestError) as error:
            bad.append(f"{path}:{number}: {error}")
            continue
        repeated += ids in found
        found.setdefault(ids, answer)
    if not found:
        raise DataError("\n".join([*bad[:5], f"{path}: no line of it can be used"]))
    return Prompts(tuple(found), repeated, tuple(bad), tuple(found.values()) if answers else ())


def shuffled(number: int, seed: int) -> list[int]:
    """Places of so many prompts in an order of the seed's: any beginning is a fair sample."""
    return random.Random(seed).sample(range(number), number)


def is_held_out(prompt_ids: Sequence[int], share: float) -> bool:
    """Whether a prompt is kept for evaluation: by its own hash, so in every corpus alike."""
    digest = hashlib.sha256(np.asarray(prompt_ids, np.int64).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def hash_of(prompts: Sequence[Ids]) -> str:
    """One hash of many prompts in order."""
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def _fields(line: bytes) -> dict[str, Any]:
    """The object of one line. Raises ValueError that says what is wrong."""
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    return fields


def _messages(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation of one line. Raises ValueError that says what is wrong."""
    named = [name for name in FIELDS if name in fields]
    if len(named) != 1:
        raise ValueError(f"must have one of the fields {', '.join(FIELDS)}")
    value = fields[named[0]]
    if named[0] == "messages":
        return _conversation(value)
    if named[0] == "turns":
        if not isinstance(value, list) or not value:
            raise ValueError("turns: must be a list of texts")
        return [{"role": "user", "content": _text({"turns": value[0]}, "turns")}]
    return [{"role": "user", "content": _text(fields, named[0])}]


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name}: must be a text that is not empty")
    return value


def _conversation(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError("messages: must be a list of messages")
    for number, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError(f"messages[{number}]: must have a role")
        if not isinstance(message.get("content"), str):
            raise ValueError(f"messages[{number}].content: must be a text")
    if value[-1]["role"] != "user":
        raise ValueError("messages: the last one must be the user's")
    return value
