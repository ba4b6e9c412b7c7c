"""The data card of a finished corpus: what is in it, for programs and for people."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from s2d_ray.errors import DataError
from s2d_ray.job_folder import write_atomically
from s2d_ray.models.draft_files import trimmed_ids
from s2d_ray.models.lineage import hash_of_file
from s2d_ray.models.text import Text
from s2d_ray.train.corpus_files import CARD, Answer, Settings, read_answers, read_index
from s2d_ray.train.prompts import Prompts

HEAD_SIZES = (1_024, 2_048, 4_096, 8_192, 16_384, 32_768)


@dataclass(frozen=True)
class Corpus:
    """A finished corpus, or several joined. card: hash of its card, which has all shards'."""

    folder: Path
    settings: Settings
    training: list[Answer]
    held_out: list[Answer]
    card: str


def load_corpus(folder: Path) -> Corpus:
    """Read a finished corpus. Raises DataError if it is unfinished, damaged or useless."""
    settings, shards = read_index(folder)
    if not (folder / CARD).exists():
        raise DataError(f"{folder}: is not finished; run the same `s2d corpus` again")
    answers = read_answers(folder, shards)
    training = [answer for answer in answers if not answer.held_out]
    held_out = [answer for answer in answers if answer.held_out]
    if not training or not held_out:
        raise DataError(f"{folder}: a split has no text; make it with more tokens or --held-out")
    return Corpus(folder, settings, training, held_out, hash_of_file(folder / CARD))


def load_corpora(folders: Sequence[Path]) -> Corpus:
    """Read corpora of one vocabulary, such as those of the targets of one draft, as one.

    What any of them holds out none of them trains on. Their held-out texts come in turn.

    Raises DataError like `load_corpus`, and if they cannot be joined.
    """
    corpora = [load_corpus(folder) for folder in folders]
    first = corpora[0]
    if len(corpora) == 1:
        return first
    for other in corpora[1:]:
        for name in ("tokenizer", "vocab_size", "top"):
            if getattr(other.settings, name) != getattr(first.settings, name):
                raise DataError(f"{other.folder}: its {name} is not the one of {first.folder}")
    if len({corpus.card for corpus in corpora}) < len(corpora):
        raise DataError(f"--corpus: one of {', '.join(map(str, folders))} is there twice")
    in_turn = zip_longest(*(corpus.held_out for corpus in corpora))
    held_out = [answer for turn in in_turn for answer in turn if answer is not None]
    kept_back = {answer.prompt_ids.tobytes() for answer in held_out}
    training = [
        answer
        for corpus in corpora
        for answer in corpus.training
        if answer.prompt_ids.tobytes() not in kept_back
    ]
    cards = hashlib.sha256(" ".join(corpus.card for corpus in corpora).encode()).hexdigest()
    return Corpus(first.folder, first.settings, training, held_out, cards)


def token_counts(answers: Sequence[Answer]) -> Counter[int]:
    """How often each id was written."""
    joined = np.concatenate([np.zeros(0, np.int64), *(answer.output_ids for answer in answers)])
    ids, counts = np.unique(joined, return_counts=True)
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


def write_card(folder: Path, checkpoint: Path, asked: Prompts) -> None:
    """Write card.json and README.md of the corpus in `folder`; they say that it is finished."""
    settings, shards = read_index(folder)
    answers = read_answers(folder, shards)
    ends = Text(checkpoint).eos_token_ids
    splits = {
        "training": [answer for answer in answers if not answer.held_out],
        "held_out": [answer for answer in answers if answer.held_out],
    }
    card = {
        "settings": asdict(settings),
        "prompts": {
            "usable": len(asked.ids),
            "repeated": asked.repeated,
            "left_out": len(asked.bad),
        },
        "repeated_outputs": sum(shard.dropped for shard in shards),
        "splits": {name: _counts(split, ends) for name, split in splits.items()},
        "head_coverage": _coverage(splits["training"], splits["held_out"], checkpoint),
        "shards": {shard.file: shard.sha256 for shard in shards},
    }
    write_atomically(folder / "README.md", _page(card))
    write_atomically(folder / CARD, json.dumps(card, indent=2) + "\n")


def _counts(answers: Sequence[Answer], ends: frozenset[int]) -> dict[str, Any]:
    tokens = sum(len(answer.output_ids) for answer in answers)
    ended = sum(int(answer.output_ids[-1]) in ends for answer in answers)
    by_temperature = Counter(f"{answer.temperature:g}" for answer in answers)
    return {
        "texts": len(answers),
        "prompts": len({answer.prompt_ids.tobytes() for answer in answers}),
        "output_tokens": tokens,
        "ended_by_themselves": ended,
        "texts_by_temperature": dict(sorted(by_temperature.items())),
    }


def _coverage(
    training: Sequence[Answer], held_out: Sequence[Answer], checkpoint: Path
) -> dict[str, float]:
    """Share of held-out output tokens in a head of so many ids, chosen by the training texts."""
    counts, written = token_counts(training), token_counts(held_out)
    size = Text(checkpoint).vocab_size
    shares = {}
    for head_size in (each for each in HEAD_SIZES if each < size):
        inside = set(trimmed_ids(checkpoint, head_size, counts))
        covered = sum(count for token, count in written.items() if token in inside)
        shares[str(head_size)] = round(covered / max(1, written.total()), 5)
    return shares


def _page(card: dict[str, Any]) -> str:
    settings = card["settings"]
    lines = [
        f"# Corpus of {settings['target']}",
        "",
        "Answers of a target to prompts, and at each position of an answer the target's likeliest "
        f"{settings['top']} tokens with their log-probabilities at temperature 1. Made by "
        "`s2d corpus`; the same settings give the same texts.",
        "",
        "| | training | held out |",
        "|---|---|---|",
    ]
    splits = card["splits"]
    for key, value in splits["training"].items():
        other = splits["held_out"][key]
        if isinstance(value, dict):
            value, other = (
                ", ".join(f"{number} at {name}" for name, number in each.items())
                for each in (value, other)
            )
        lines.append(f"| {key.replace('_', ' ')} | {value} | {other} |")
    lines += ["", "| setting | value |", "|---|---|"]
    lines += [f"| {key.replace('_', ' ')} | `{value}` |" for key, value in settings.items()]
    prompts = card["prompts"]
    lines += [
        "",
        f"Prompts: {prompts['usable']} usable, {prompts['repeated']} repeated, "
        f"{prompts['left_out']} left out as wrong. Left out as repeated: "
        f"{card['repeated_outputs']} texts.",
        "",
        "| head size | held-out output tokens inside |",
        "|---|---|",
    ]
    lines += [f"| {size} | {share:.2%} |" for size, share in card["head_coverage"].items()]
    return "\n".join(lines) + "\n"
