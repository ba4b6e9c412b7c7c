"""Cores that a process may use: what its control groups allow, on machines as they are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from s2d_ray.core.cores import cpu_limit, usable_cores
from s2d_ray.serve import host

PERIOD = "100000"


def machine(folder: Path, cgroup: str, mounts: Mapping[str, str], files: Mapping[str, str]) -> Path:
    """A /proc/self and control groups below a folder.

    mounts: mount point -> root, type and options; files: path -> content.
    """
    process = folder / "proc"
    process.mkdir()
    (process / "cgroup").write_text(cgroup)
    lines = ["20 1 8:1 / / rw,relatime - ext4 /dev/root rw"]
    for number, (point, told) in enumerate(mounts.items(), 30):
        root, kind, options = told.split()
        place = str(folder / point).replace(" ", r"\040")
        lines.append(f"{number} 20 0:{number} {root} {place} rw shared:9 - {kind} {kind} {options}")
    (process / "mountinfo").write_text("\n".join(lines) + "\n")
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content + "\n")
    return process


VERSION_1 = "4:memory:/pod\n3:cpu,cpuacct:/pod\n1:name=systemd:/pod\n0::/pod\n"

LIMITS = {
    "version 2 in a container": (
        "0::/\n",
        {"a b": "/ cgroup2 rw"},
        {"a b/cpu.max": f"150000 {PERIOD}"},
        1.5,
    ),
    "version 2 without a quota": (
        "0::/\n",
        {"group": "/ cgroup2 rw"},
        {"group/cpu.max": f"max {PERIOD}"},
        None,
    ),
    "version 2, a group above allows less": (
        "0::/pods/one/deep\n",
        {"group": "/ cgroup2 rw"},
        {
            "group/pods/cpu.max": f"max {PERIOD}",
            "group/pods/one/cpu.max": f"200000 {PERIOD}",
            "group/pods/one/deep/cpu.max": f"300000 {PERIOD}",
        },
        2.0,
    ),
    "version 2, mounted from within": (
        "0::/pods/one\n",
        {"group": "/pods/one cgroup2 rw"},
        {"group/cpu.max": f"400000 {PERIOD}"},
        4.0,
    ),
    "version 2, a group outside of what is mounted": (
        "0::/../other\n",
        {"group": "/ cgroup2 rw"},
        {"group/cpu.max": f"100000 {PERIOD}"},
        1.0,
    ),
    "version 1 in a container": (
        VERSION_1,
        {"memory": "/pod cgroup rw,memory", "cpu": "/pod cgroup rw,cpu,cpuacct"},
        {
            "cpu/cpu.cfs_quota_us": "250000",
            "cpu/cpu.cfs_period_us": PERIOD,
            "memory/cpu.cfs_quota_us": "1",
            "memory/cpu.cfs_period_us": PERIOD,
        },
        2.5,
    ),
    "version 1 without a quota": (
        VERSION_1,
        {"cpu": "/ cgroup rw,cpu,cpuacct"},
        {"cpu/pod/cpu.cfs_quota_us": "-1", "cpu/pod/cpu.cfs_period_us": PERIOD},
        None,
    ),
    "both versions, as on machines between them": (
        VERSION_1,
        {"cpu": "/ cgroup rw,cpu,cpuacct", "unified": "/ cgroup2 rw"},
        {"cpu/pod/cpu.cfs_quota_us": "50000", "cpu/pod/cpu.cfs_period_us": PERIOD},
        0.5,
    ),
    "no control groups": ("", {}, {}, None),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_least_quota_of_the_groups_is_the_limit(name: str, tmp_path: Path) -> None:
    cgroup, mounts, files, limit = LIMITS[name]
    process = machine(tmp_path, cgroup, mounts, files)
    assert cpu_limit(process) == limit
    cores = len(os.sched_getaffinity(0))
    assert usable_cores(process) == (cores if limit is None else max(1, min(cores, int(limit))))


def test_cores_are_whole_at_least_one_and_no_more_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    for quota, cores in (("10000", 1), ("199999", 1), ("300000", 3), ("900000", 4)):
        folder = tmp_path / quota
        folder.mkdir()
        files = {"group/cpu.max": f"{quota} {PERIOD}"}
        process = machine(folder, "0::/\n", {"group": "/ cgroup2 rw"}, files)
        assert usable_cores(process) == cores


def test_a_process_settles_for_its_cores_unless_the_config_names_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "usable_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    assert (host.settle_openmp(0), os.environ["OMP_NUM_THREADS"]) == (3, "3")
    assert (host.settle_openmp(2), os.environ["OMP_NUM_THREADS"]) == (2, "2")
