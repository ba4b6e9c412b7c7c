"""How many cores this process may use: those it may run on, and what its control groups allow.

Linux counts the cores of the whole machine in a container too; neither `os.sched_getaffinity` nor
Python 3.13's `os.process_cpu_count` looks at a quota. With more threads than the quota has cores,
all of them stop together for the rest of every period.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

OURSELVES = Path("/proc/self")


def usable_cores(process: Path = OURSELVES) -> int:
    """Whole cores, at least one. Half a core more is left to what runs beside a forward."""
    cores = len(os.sched_getaffinity(0))
    limit = cpu_limit(process)
    return cores if limit is None else max(1, min(cores, int(limit)))


def cpu_limit(process: Path = OURSELVES) -> float | None:
    """The least quota of the process's control group and those above, in cores; None: no quota.

    Reads versions 1 and 2 of control groups; process: a folder as /proc has.
    """
    quotas = (_quota(folder) for folder in _groups(process))
    return min((quota for quota in quotas if quota is not None), default=None)


def _groups(process: Path) -> Iterator[Path]:
    """Folders of the group and of those above it, as far up as they can be seen."""
    paths: dict[str, str] = {}  # controller -> group; "" is version 2
    for line in _lines(process / "cgroup"):
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in _lines(process / "mountinfo"):
        place, _, source = line.partition(" - ")
        root, point = (word.replace(r"\040", " ") for word in place.split()[3:5])
        kind, *_, options = source.split()
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller not in paths or (controller and controller not in options.split(",")):
            continue
        group = PurePosixPath(paths[controller])
        below = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
        yield Path(point)
        yield from (Path(point, *below.parts[: n + 1]) for n in range(len(below.parts)))


def _quota(folder: Path) -> float | None:
    both = _lines(folder / "cpu.max")
    words = both[0].split() if both else []
    if not both:
        words = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    if len(words) != 2 or words[0] in ("max", "-1"):
        return None
    return int(words[0]) / int(words[1])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
