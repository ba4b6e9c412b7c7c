"""Logs of one line an event, in files that rotate. A full disk stops a log, not the service."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 64 * 2**20
NUM_FILES = 8


class LineLog(RotatingFileHandler):
    """A file, and up to `num_files` older ones. num_lost counts lines that could not be written.

    While the disk is full, lines are lost and counted; it goes on by itself afterwards.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES, num_files: int = NUM_FILES) -> None:
        super().__init__(path, "a", max_bytes, num_files, encoding="utf-8", delay=True)
        self.num_lost = 0

    def write(self, line: str) -> None:
        """Append a line; never raises."""
        self.handle(logging.LogRecord("line", logging.INFO, "", 0, line, None, None))

    def last_lines(self, most: int) -> list[str]:
        """The youngest whole lines of the file, at most so many; none if it cannot be read."""
        try:
            with open(self.baseFilename, encoding="utf-8", errors="replace") as file:
                return list(deque(file, most))
        except OSError:
            return []

    def handleError(self, record: logging.LogRecord) -> None:
        """What the library calls, inside its `except`, where a record could not be written."""
        self.num_lost += 1
        # What is left in the stream's buffer would be tried again, in the middle of a line.
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
