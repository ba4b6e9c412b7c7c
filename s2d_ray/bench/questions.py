"""Questions in the format of Spec-Bench: read from JSONL, sorted into its six groups, chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Final, TypeVar

from s2d_ray.errors import DataError

CONVERSATION: Final = "multi-turn"
CATEGORIES: Final = {
    **dict.fromkeys(
        (
            "writing",
            "roleplay",
            "reasoning",
            "math",
            "coding",
            "extraction",
            "stem",
            "humanities",
        ),
        CONVERSATION,
    ),
    **{name: name for name in ("translation", "summarization", "qa", "math_reasoning", "rag")},
}
"""Group of each category; those of MT-bench are one."""

GROUPS: Final = tuple(dict.fromkeys(CATEGORIES.values()))

WHERE_FROM: Final = (
    "the file is not shipped; take data/spec_bench/question.jsonl of "
    "github.com/hemingkx/Spec-Bench (Apache-2.0), or any file in its format"
)


@dataclass(frozen=True)
class Question:
    """The user's side of a conversation."""

    question_id: int
    category: str
    turns: tuple[str, ...]

    @property
    def group(self) -> str:
        """The group it counts in."""
        return CATEGORIES[self.category]


def read_questions(path: Path) -> list[Question]:
    """All questions of a JSONL file. Raises DataError naming the first line that is none."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; {WHERE_FROM}") from None
    found: dict[int, Question] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = _question(json.loads(line))
            if question.question_id in found:
                raise ValueError(f"question_id {question.question_id} is there twice")
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from None
        found[question.question_id] = question
    if not found:
        raise DataError(f"{path}: has no questions; {WHERE_FROM}")
    return list(found.values())


def _question(tree: Any) -> Question:
    """Raises ValueError that names the field."""
    if not isinstance(tree, dict):
        raise ValueError("not a JSON object")
    number, category, turns = (tree.get(name) for name in ("question_id", "category", "turns"))
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError("question_id must be a whole number")
    if not isinstance(category, str) or category not in CATEGORIES:
        raise ValueError(f"category {category!r} is none of {', '.join(CATEGORIES)}")
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) for t in turns):
        raise ValueError("turns must be a list of texts, at least one")
    return Question(number, category, tuple(turns))


def choose(questions: Sequence[Question], limit: int | None, first_turns: bool) -> list[Question]:
    """Up to `limit` questions of each group, its categories in turn, and the groups in turn.

    So a run that is not at its end yet has seen all groups alike. A smaller limit chooses a part
    of what a larger one chooses. first_turns: each conversation ends with its first answer.
    """
    groups = []
    for group in GROUPS:
        names = [name for name, of in CATEGORIES.items() if of == group]
        by_category = [[q for q in questions if q.category == name] for name in names]
        groups.append(list(islice(_in_turn(by_category), limit)))
    return [
        Question(each.question_id, each.category, each.turns[:1] if first_turns else each.turns)
        for each in _in_turn(groups)
    ]


Item = TypeVar("Item")


def _in_turn(lists: Sequence[Sequence[Item]]) -> Iterator[Item]:
    """The first of each, the second of each, and so on, until all have ended."""
    for row in zip_longest(*([(item,) for item in items] for items in lists)):
        for cell in row:
            if cell is not None:
                yield cell[0]


def shortest(questions: Sequence[Question]) -> list[Question]:
    """The same, the shortest first; of equal ones in the file's order."""
    return sorted(questions, key=lambda each: sum(map(len, each.turns)))
