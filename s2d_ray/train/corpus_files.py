"""A corpus on disk: shards of texts in safetensors, and an index that names them.

A shard is renamed into place first and named by the index afterwards, so a killed run leaves whole
shards only. Nothing in a corpus can run code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from s2d_ray.errors import DataError
from s2d_ray.job_folder import check_same, write_atomically

FORMAT = 1
INDEX = "index.json"
CARD = "card.json"

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Answer:
    """A prompt and what the target wrote behind it.

    task: its place in the run's order. top_ids, top_logprobs: [tokens, top], the likeliest tokens
    at each output position, the best first; log-probabilities are those of the raw scores at
    temperature 1, whatever temperature the text was drawn at.
    """

    task: int
    temperature: float
    held_out: bool
    prompt_ids: Ids
    output_ids: Ids
    top_ids: Ids
    top_logprobs: NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """All that a corpus depends on; equal settings give equal shards.

    weights: hash of the target's weight files. tokenizer: fingerprint of its vocabulary.
    prompts: hash of the ids of all prompts, in order. answers: the field that held them, if the
    target did not write them.
    """

    target: str
    model: str
    precision: str
    weights: str
    tokenizer: str
    vocab_size: int
    seed: int
    temperatures: tuple[float, ...]
    max_tokens: int
    top: int
    held_out: float
    prompts: str
    answers: str | None = None


@dataclass(frozen=True)
class ShardEntry:
    """One line of the index. dropped: texts that were left out since an earlier one is equal."""

    file: str
    sha256: str
    texts: int
    tokens: int
    dropped: int


class CorpusWriter:
    """Appends shards to the corpus in `folder`, behind those of an earlier run.

    Raises DataError if what lies there was made with other settings.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self.shards: list[ShardEntry] = []
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / INDEX).exists():
            held, self.shards = read_index(folder)
            check_same(folder, asdict(held), asdict(settings))
        (folder / CARD).unlink(missing_ok=True)

    @property
    def num_tokens(self) -> int:
        """Output tokens in the finished shards."""
        return sum(shard.tokens for shard in self.shards)

    def append(self, answers: Sequence[Answer], dropped: int) -> None:
        """Write one more shard."""
        name = f"shard-{len(self.shards):05d}.safetensors"
        partial = self._folder / f"{name}.partial"
        save_file(_tensors(answers, self._settings), partial)
        os.replace(partial, self._folder / name)
        tokens = sum(len(answer.output_ids) for answer in answers)
        digest = _sha256(self._folder / name)
        self.shards.append(ShardEntry(name, digest, len(answers), tokens, dropped))
        index = {
            "format": FORMAT,
            "settings": asdict(self._settings),
            "shards": [asdict(shard) for shard in self.shards],
        }
        write_atomically(self._folder / INDEX, json.dumps(index, indent=1) + "\n")


def read_index(folder: Path) -> tuple[Settings, list[ShardEntry]]:
    """What made a corpus, and its finished shards. Raises DataError naming what is wrong."""
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise DataError(f"{path}: format {index['format']} is not {FORMAT}; make it again")
        held = index["settings"]
        held["temperatures"] = tuple(held["temperatures"])
        return Settings(**held), [ShardEntry(**shard) for shard in index["shards"]]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not the index of a corpus: {error}") from None


def read_answers(folder: Path, shards: Sequence[ShardEntry]) -> list[Answer]:
    """The texts of some shards, in order. Raises DataError if one is not what the index says."""
    answers: list[Answer] = []
    for shard in shards:
        path = folder / shard.file
        try:
            damaged = _sha256(path) != shard.sha256
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
        if damaged:
            raise DataError(f"{path}: its hash is not the one in {INDEX}; remove the corpus")
        answers += _answers(tensors)
    return answers


def _tensors(answers: Sequence[Answer], settings: Settings) -> dict[str, NDArray[Any]]:
    small = np.uint16 if settings.vocab_size <= 1 << 16 else np.int32

    def joined(name: str) -> NDArray[Any]:
        nothing = np.zeros((0, settings.top) if name.startswith("top") else 0)
        return np.concatenate([nothing, *(getattr(answer, name) for answer in answers)])

    return {
        "task": np.array([answer.task for answer in answers], np.int32),
        "temperature": np.array([answer.temperature for answer in answers], np.float32),
        "held_out": np.array([answer.held_out for answer in answers], np.uint8),
        "prompt_ends": np.cumsum([0] + [len(a.prompt_ids) for a in answers]).astype(np.int64),
        "output_ends": np.cumsum([0] + [len(a.output_ids) for a in answers]).astype(np.int64),
        "prompt_ids": joined("prompt_ids").astype(small),
        "output_ids": joined("output_ids").astype(small),
        "top_ids": joined("top_ids").astype(small),
        "top_logprobs": joined("top_logprobs").astype(np.float16),
    }


def _answers(tensors: dict[str, NDArray[Any]]) -> list[Answer]:
    ids = {name: tensors[name].astype(np.int64) for name in ("prompt_ids", "output_ids", "top_ids")}
    logprobs = tensors["top_logprobs"].astype(np.float32)
    prompts, outputs = tensors["prompt_ends"], tensors["output_ends"]
    found = []
    for row, task in enumerate(tensors["task"]):
        own = slice(int(outputs[row]), int(outputs[row + 1]))
        found.append(
            Answer(
                int(task),
                float(tensors["temperature"][row]),
                bool(tensors["held_out"][row]),
                ids["prompt_ids"][int(prompts[row]) : int(prompts[row + 1])],
                ids["output_ids"][own],
                ids["top_ids"][own],
                logprobs[own],
            )
        )
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
