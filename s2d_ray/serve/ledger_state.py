"""The ledger's folder: its snapshot, the usage log, the audit log. A full disk stops no request."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2d_ray.policy.keys import Caller
from s2d_ray.policy.ledger import Snapshot
from s2d_ray.policy.usage import UsageRecord
from s2d_ray.serve.line_log import LineLog

logger = logging.getLogger("ray.serve")

SNAPSHOT, USAGE, AUDIT = "ledger.json", "usage.jsonl", "audit.jsonl"


@dataclass(frozen=True)
class Saved:
    """What outlives a ledger: its snapshot, sums of usage, ids of keys revoked by word."""

    snapshot: Snapshot
    usage: dict[str, dict[str, dict[str, int]]]
    revoked: list[str]


class StateFolder:
    """Files that the ledger alone writes. num_lost counts what could not be written."""

    def __init__(self, folder: Path, *, prints: bool) -> None:
        """Raises OSError if the folder cannot be made. prints: usage goes to stdout as well."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / SNAPSHOT
        self._usage = LineLog(folder / USAGE)
        self._audit = LineLog(folder / AUDIT)
        self._prints = prints
        self._num_unsaved = 0

    @property
    def num_lost(self) -> int:
        """Records and snapshots that could not be written."""
        return self._usage.num_lost + self._audit.num_lost + self._num_unsaved

    def usage(self, record: UsageRecord) -> None:
        """Write a record down."""
        line = record.line()
        self._usage.write(line)
        if self._prints:
            print(line, flush=True)

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
            snapshot = Snapshot(tree["snapshot"]["levels"], tree["snapshot"]["paid"])
            return Saved(snapshot, tree["usage"], tree["revoked"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.error("the ledger's snapshot cannot be read, all buckets are full: %s", error)
            return Saved(Snapshot({}, []), {}, [])
