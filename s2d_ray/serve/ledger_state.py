"""The ledger's folder: its snapshot, the usage log, the audit log. A full disk stops no request."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s2d_ray.policy.keys import Caller
from s2d_ray.policy.ledger import Snapshot
from s2d_ray.policy.usage import RefusalCounts, UsageRecord
from s2d_ray.serve.line_log import LineLog

logger = logging.getLogger("ray.serve")

SNAPSHOT, USAGE, AUDIT = "ledger.json", "usage.jsonl", "audit.jsonl"
REFUSED = "refused.jsonl"
"""A file of its own, so that a flood of refusals cannot rotate records of usage away."""


@dataclass(frozen=True)
class Saved:
    """What outlives a ledger: its snapshot, sums of usage, ids of keys revoked by word.

    recorded: ids of the last grants that the sums hold.
    """

    snapshot: Snapshot
    usage: dict[str, dict[str, dict[str, int]]]
    revoked: list[str]
    recorded: list[str] = field(default_factory=list)


class StateFolder:
    """Files that the ledger alone writes. num_lost counts what could not be written."""

    def __init__(self, folder: Path, *, prints: bool) -> None:
        """Raises OSError if the folder cannot be made. prints: usage goes to stdout as well."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / SNAPSHOT
        self._usage = LineLog(folder / USAGE)
        self._audit = LineLog(folder / AUDIT)
        self._refused = LineLog(folder / REFUSED)
        self._prints = prints
        self._num_unsaved = 0

    @property
    def num_lost(self) -> int:
        """Records and snapshots that could not be written."""
        logs = (self._usage, self._audit, self._refused)
        return sum(log.num_lost for log in logs) + self._num_unsaved

    def usage(self, record: UsageRecord) -> None:
        """Write a record down."""
        self._write(self._usage, record.line())

    def last_records(self, most: int) -> list[UsageRecord]:
        """The youngest records of the usage log, at most so many; without damaged lines."""
        records = []
        for line in self._usage.last_lines(most):
            with contextlib.suppress(ValueError, TypeError):
                records.append(UsageRecord(**json.loads(line)))
        return records

    def refused(self, counts: RefusalCounts) -> None:
        """Write down how many requests were refused since the last time."""
        for line in counts.take(time.time()):
            self._write(self._refused, line)

    def audit(self, caller: Caller | None, action: str, subject: str) -> None:
        """Write down what was done, to what, and by whose key."""
        entry = {
            "time_s": round(time.time(), 3),
            "by": caller.name if caller else "file",
            "key_id": caller.key_id if caller else None,
            "action": action,
            "subject": subject,
        }
        self._audit.write(json.dumps(entry, separators=(",", ":")))

    def _write(self, log: LineLog, line: str) -> None:
        log.write(line)
        if self._prints:
            print(line, flush=True)

    def save(self, saved: Saved) -> None:
        """Replace the snapshot; never raises."""
        half = self._path.with_suffix(".half")
        try:
            half.write_text(json.dumps(asdict(saved)), encoding="utf-8")
            os.replace(half, self._path)
        except OSError as error:
            self._num_unsaved += 1
            logger.error("the ledger's snapshot cannot be written: %s", error)

    def load(self) -> Saved | None:
        """The last snapshot, an empty one if it cannot be read, None if there was no ledger yet."""
        try:
            tree: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            return Saved(**tree | {"snapshot": Snapshot(**tree["snapshot"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.error("the ledger's snapshot cannot be read, all buckets are full: %s", error)
            return Saved(Snapshot({}, []), {}, [])
