"""The plan file, for a router or a replica: read again as it changes; the last good one stays."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from s2d_ray.core.cascade import Plan
from s2d_ray.errors import ConfigError
from s2d_ray.plan_file import PlanFile, load_plan_file

logger = logging.getLogger("ray.serve")

LOOK_EVERY_S = 2.0


class WatchedPlans:
    """Looks at the file, by name, when it is asked for a plan, but not more often than that.

    Without a file that can be used it knows no plan: texts are the same by any. file: what it has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: str | None = None
        self.file: PlanFile | None = None
        self._seen: tuple[int, int, int] | None = None
        self._look_at_s = 0.0

    def plan_of(self, target: str, task: str) -> tuple[str, Plan] | None:
        """The class that serves a task and its best plan; None if the file has none."""
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_EVERY_S
            self.look()
        return None if self.file is None else self.file.plan_of(target, task)

    def look(self) -> None:
        """Take another version over, if there is one that can be used."""
        try:
            stat = os.stat(self.path)
            seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return
            self._seen = seen
            self.file, self.trouble = load_plan_file(self.path), None
        except (ConfigError, OSError) as error:
            trouble = str(error)
            if trouble != self.trouble:
                logger.error("the plans stay as they were: %s", trouble)
            self.trouble = trouble
