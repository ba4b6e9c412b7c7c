"""The usage log: one line of JSON a request, in files that rotate. A full disk stops it, not us."""

from __future__ import annotations

import contextlib
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from s2d_ray.policy.usage import UsageRecord

FILE = "usage.jsonl"


class UsageLog(RotatingFileHandler):
    """`usage.jsonl` in a folder, and up to `num_files` older ones. num_lost counts records.

    While the disk is full, records are lost and counted; it goes on by itself afterwards.
    """

    def __init__(self, folder: Path, max_bytes: int, num_files: int) -> None:
        super().__init__(folder / FILE, "a", max_bytes, num_files, encoding="utf-8", delay=True)
        self.num_lost = 0

    def write(self, record: UsageRecord) -> None:
        """Append a record; never raises."""
        line = logging.LogRecord("usage", logging.INFO, "", 0, record.line(), None, None)
        self.handle(line)

    def handleError(self, record: logging.LogRecord) -> None:
        """What the library calls, inside its `except`, where a record could not be written."""
        self.num_lost += 1
        # What is left in the stream's buffer would be tried again, in the middle of a line.
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
