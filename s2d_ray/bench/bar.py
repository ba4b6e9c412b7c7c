"""What a benchmark shows of its progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from s2d_ray.bench.alternate import Advance


class StderrBar:
    """One line per comparison on stderr, since stdout holds the report.

    Where no bar can be shown, in a log say, each sample is a line.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def say(self, line: str) -> None:
        """Tell of something that is not counted."""
        self._progress.console.print(line, highlight=False)

    def open(self, title: str, total: int) -> Advance:
        """A new line; -> what moves it on."""
        task = self._progress.add_task(title, total=total)

        def advance(what: str) -> None:
            self._progress.update(task, advance=1, description=f"{title}: {what}")
            if not self._progress.console.is_terminal:
                self.say(f"{title}: {what}")

        return advance


@contextmanager
def stderr_bar() -> Iterator[StderrBar]:
    """Shown while the context lasts."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield StderrBar(progress)
