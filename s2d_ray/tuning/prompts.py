"""What is asked where no questions are given: prompts of every class of task, in two halves.

One half is calibrated on, the other measured on, so that no plan is measured by texts it was chosen
by. With questions of a file, those with odd numbers are calibrated on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from s2d_ray.bench.questions import Question
from s2d_ray.policy.tasks import code_share, overlap, task_class

_STORY = (
    "The harbour town of Lenvik lives from its ferry. The ferry leaves at six in the morning with "
    "fish and returns at noon with flour, letters and visitors. In winter the ferry stays in the "
    "harbour when the north wind blows, and the town of Lenvik waits for its flour. In 1962 a "
    "storm broke the pier. The people of Lenvik built a new pier from the stones of the old church."
)
_NOTES = (
    "Meeting of 3 March. Present: Ada, Ben, Carla. Ada reports that the pump in hall two was "
    "replaced and that the pump in hall one runs hot. Ben has asked two firms for offers for the "
    "pump in hall one. Carla wants the offers by Friday. The budget for the pump is 4,000."
)
_LOOP = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n"
_CLASS = (
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
    "    def push(self, item):\n        self.items.append(item)\n"
)

CHAT = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "Give me a recipe for pancakes.",
    "Name three birds that cannot fly.",
    "Explain photosynthesis to a child.",
    "List the planets in order of their distance from the sun.",
    "Write a polite e-mail that declines an invitation to a conference.",
    "What is 17 times 6? Show the steps.",
)
CODE = (
    f"Add a docstring and type hints to this function:\n```python\n{_LOOP}    return result\n```",
    f"Write the method pop for this class:\n```python\n{_CLASS}```",
    f"Rewrite this function with sum:\n```python\n{_LOOP}    return result\n```",
    f"Write a test for this class:\n```python\n{_CLASS}```",
)
CONTEXT = (
    f"Read this text.\n{_STORY}\nRead it once more.\n{_STORY}\nWhen does the ferry leave?",
    f"Copy these notes as a list.\n{_NOTES}\nThe notes again:\n{_NOTES}",
    f"Correct this text where it is wrong.\n{_STORY}\nThe text again:\n{_STORY}",
    f"Summarise these notes.\n{_NOTES}\nThe notes again:\n{_NOTES}\nUse their own words.",
)


@dataclass(frozen=True)
class Asked:
    """A prompt of one user message."""

    number: int
    text: str

    def task(self, prompt_tokens: int) -> str:
        """Its class of task, as a router would see it."""
        return task_class(prompt_tokens, code_share(self.text), overlap(self.text))


def built_in(half: int) -> list[Asked]:
    """Those of one half, 0 or 1, the classes in turn."""
    rows = zip_longest(CHAT[half::2], CODE[half::2], CONTEXT[half::2])
    texts = [text for row in rows for text in row if text is not None]
    return [Asked(number, text) for number, text in enumerate(texts)]


def of_questions(questions: Sequence[Question], half: int) -> list[Asked]:
    """First turns of questions with odd numbers (0) or even ones (1)."""
    return [
        Asked(each.question_id, each.turns[0])
        for each in questions
        if each.question_id % 2 == 1 - half
    ]
