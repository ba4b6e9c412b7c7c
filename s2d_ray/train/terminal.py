"""What a long run shows on the terminal: a bar with a speed, and lines above it. On stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Bar = tuple[Callable[[str], None], Callable[[int], None]]
"""Say a line; advance by so many tokens."""


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} tokens/s")


@contextmanager
def token_bar(title: str, total: int | None) -> Iterator[Bar]:
    """A bar that counts tokens up to `total`, if it is known."""
    console = Console(stderr=True)
    counts = "{task.completed:,}" + (f"/{total:,}" if total else "")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(f"{counts} tokens"),
        _Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)
        yield (
            lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
            lambda tokens: progress.advance(task, tokens),
        )
