"""Prompts that the target makes up: it writes the user's turn of its own chat template.

Source: Magpie, Xu et al., arXiv 2406.08464: behind the header of a user's turn an instructed model
writes what users ask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count, islice, takewhile
from pathlib import Path

from s2d_ray.core.hashing import choice_seed
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.messages import FinishReason
from s2d_ray.errors import DataError
from s2d_ray.job_folder import write_atomically
from s2d_ray.train.prompts import Encode
from s2d_ray.train.writer import Task, Writer

MAX_TOKENS = 128
"""Longest made-up prompt; one that does not end by itself is left out."""

PER_FILE = 64
STREAM = 1 << 32
"""Prompt number of the first draw, apart from those of the answers."""

_PROBES = ("Why?", "7 apples", "the end")


def user_header(encode: Encode) -> tuple[int, ...]:
    """Ids of a conversation up to where the user's words begin: what differing ones share."""
    chats = [encode([{"role": "user", "content": text}]) for text in _PROBES]
    shared = takewhile(lambda ids: len(set(ids)) == 1, zip(*chats, strict=False))
    header = tuple(ids[0] for ids in shared)
    if not header:
        raise DataError("the chat template has no user header to write behind; name --prompts")
    return header


def invent(
    folder: Path,
    writer: Callable[[], Writer],
    encode: Encode,
    number: int,
    seed: int,
) -> Path:
    """A file of `number` prompts, made by the target at temperature 1 with top_p 0.95.

    They come in files of `PER_FILE` tries, so a killed run goes on behind the last whole one.
    Raises DataError once a file brings none that is new.
    """
    whole = folder / f"self-prompts-{seed}-{number}.jsonl"
    if whole.exists():
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    header = user_header(encode)
    found: dict[str, None] = {}
    for part in count():
        path = folder / f"self-prompts-{seed}.{part:05d}"
        if not path.exists():
            write_atomically(path, "".join(_tries(writer(), header, part, seed)))
        before = len(found)
        found |= dict.fromkeys(path.read_text(encoding="utf-8").splitlines())
        if len(found) >= number:
            break
        if len(found) == before:
            raise DataError("the target makes up no more prompts; name a file with --prompts")
    write_atomically(whole, "".join(f"{line}\n" for line in [*found][:number]))
    return whole


def _tries(writer: Writer, header: tuple[int, ...], part: int, seed: int) -> Iterator[str]:
    tasks = (
        Task(
            number,
            header,
            SamplingParams(
                choice_seed(seed, STREAM + number, 0), 1.0, top_p=0.95, max_tokens=MAX_TOKENS
            ),
        )
        for number in islice(count(part * PER_FILE), PER_FILE)
    )
    for written in writer.write(tasks):
        text = written.text.strip()
        if text and written.reason is FinishReason.STOP:
            yield json.dumps({"prompt": text}) + "\n"
