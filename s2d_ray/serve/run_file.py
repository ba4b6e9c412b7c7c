"""The record of the one run of `s2d serve` on this account, and how to end what it left.

A process is named by its id and its start time, so a number that was given to another process
is never taken for ours. Free of Ray: `s2d stop` must work when Ray does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import filelock
import platformdirs
import psutil

from s2d_ray.errors import RunError

TEMP_PREFIX = "s2d-"
REFRESH_S = 2.0
POLL_S = 0.1
GRACE_S = 30.0
SOON_S = 3.0
KILL_WAIT_S = 10.0
CLOCK_SLACK_S = 2.0
"""A process' start time moves by this much when the system clock is set."""

PYTHON = os.path.realpath(sys.executable)
PACKAGES = sysconfig.get_path("platlib")

Report = Callable[[str], None]


@dataclass(frozen=True)
class ProcessMark:
    """One process, told apart from a later one with the same number by its start."""

    pid: int
    created_s: float


@dataclass(frozen=True)
class Run:
    """One run: the command, its descendants so far, where it answers, and its private folder.

    drain_s: how long it may go on with open requests once it is asked to end.
    """

    main: ProcessMark
    url: str
    temp_dir: str
    children: tuple[ProcessMark, ...] = ()
    drain_s: float = 0.0

    def marks(self) -> tuple[ProcessMark, ...]:
        """Every recorded process."""
        return (self.main, *self.children)


def default_path() -> Path:
    """Where the record lies: the user's state folder, by the XDG rules."""
    return Path(platformdirs.user_state_dir("s2d-ray")) / "run.json"


def read(path: Path) -> Run | None:
    """The recorded run, or None if there is none."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        children = tuple(ProcessMark(**mark) for mark in tree["children"])
        main, drain_s = ProcessMark(**tree["main"]), float(tree.get("drain_s", 0.0))
        return Run(main, tree["url"], tree["temp_dir"], children, drain_s)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: not a run file ({error}); delete it") from None


def write(path: Path, run: Run) -> None:
    """Replace the record in one step: a reader sees the old one or the new one."""
    write_atomically(path, json.dumps(asdict(run)))


def write_atomically(path: Path, text: str) -> None:
    """Write a file beside its place and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.part")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


def mark_of(process: psutil.Process) -> ProcessMark:
    """The mark of a live process."""
    return ProcessMark(process.pid, process.create_time())


def find(mark: ProcessMark) -> psutil.Process | None:
    """The recorded process if it still runs; one that only waits to be reaped does not."""
    try:
        process = psutil.Process(mark.pid)
        is_same = abs(process.create_time() - mark.created_s) <= CLOCK_SLACK_S
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def descendants() -> tuple[ProcessMark, ...]:
    """Marks of all processes below this one."""
    marks = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it ended in between
            marks.append(mark_of(process))
    return tuple(marks)


def claim(path: Path, run: Run) -> None:
    """Record `run` as the only one. Raises RunError if a process of an earlier one is alive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_suffix(".lock")):
        earlier = read(path)
        if earlier is not None:
            alive = [mark for mark in earlier.marks() if find(mark)]
            if alive:
                raise RunError(
                    f"s2d already runs at {earlier.url} (process {alive[0].pid}); "
                    "end it with: s2d stop"
                )
            remove_temp_dir(earlier)
        write(path, run)


class Recorder:
    """Keeps the record of a claimed run up to date from a thread of its own."""

    def __init__(self, path: Path, run: Run) -> None:
        self._path = path
        self._run = run
        self._known: dict[ProcessMark, None] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="run-file", daemon=True)

    def start(self) -> None:
        """Claim the run, then record new descendants every few seconds."""
        claim(self._path, self._run)
        self._thread.start()

    def refresh(self) -> None:
        """Record the descendants there are now; earlier ones stay while they live."""
        self._known = dict.fromkeys(mark for mark in self._known if find(mark))
        self._known |= dict.fromkeys(descendants())
        write(self._path, replace(self._run, children=tuple(self._known)))

    def finish(self, report: Report) -> None:
        """End whatever of the run still lives but the caller, then remove folder and record."""
        self._stop.set()
        self._thread.join()
        end_leftovers((*self._known, *descendants()), self._run.temp_dir, report)
        remove_temp_dir(self._run)
        self._path.unlink(missing_ok=True)

    def _loop(self) -> None:
        while not self._stop.wait(REFRESH_S):
            with contextlib.suppress(OSError):  # a full disk must not end the thread
                self.refresh()


def stop(path: Path, report: Report, grace_s: float = GRACE_S) -> None:
    """End the recorded run: politely, then by force; leave no process, folder or record."""
    run = read(path)
    if run is None:
        report("nothing is running")
        return
    main = find(run.main)
    if main is not None:
        report(f"asking process {main.pid} at {run.url} to end")
        with contextlib.suppress(psutil.NoSuchProcess):
            main.terminate()
        if wait_gone([run.main], min(SOON_S, grace_s)) and run.drain_s:
            report(
                f"open requests go on for up to {run.drain_s:.0f} s; "
                "`s2d stop` again ends them at once"
            )
        wait_gone([run.main], grace_s + run.drain_s)
        run = read(path) or run
    end_leftovers(run.marks(), run.temp_dir, report)
    remove_temp_dir(run)
    path.unlink(missing_ok=True)
    report(f"ended the run at {run.url}")


def end_leftovers(marks: Iterable[ProcessMark], temp_dir: str, report: Report) -> None:
    """Kill the recorded processes that live, and any that works in the run's folder.

    Raises RunError if one outlives that. The second look finds processes that started after the
    record was last written, or while the first ones were being killed.
    """
    left = [mark for mark in dict.fromkeys(marks) if find(mark)]
    deadline_s = time.monotonic() + KILL_WAIT_S
    while left := left or inhabitants(temp_dir):
        if time.monotonic() > deadline_s:
            raise RunError(f"process {left[0].pid} cannot be killed; end it by hand")
        report(f"killing {len(left)} left processes: {' '.join(str(mark.pid) for mark in left)}")
        for process in map(find, left):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process is not None:
                    process.kill()
        left = wait_gone(left, 1.0)


def wait_gone(marks: list[ProcessMark], timeout_s: float) -> list[ProcessMark]:
    """Wait until the processes have ended, and return those that have not."""
    deadline_s = time.monotonic() + timeout_s
    while (marks := [mark for mark in marks if find(mark)]) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return marks


def inhabitants(temp_dir: str) -> list[ProcessMark]:
    """Other processes of this user that name the folder on their command line or hold it open.

    Ray's workers rewrite their command line but keep their logs open in the session's folder.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended in between, or is another user's
            is_other = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if is_other and _works_in(process, temp_dir):
                found.append(mark_of(process))
    return found


def _works_in(process: psutil.Process, folder: str) -> bool:
    program = process.exe()
    # Only Python and Ray's own programs: a pager on a log of the run is the user's.
    if program != PYTHON and not program.startswith(PACKAGES):
        return False
    inside = folder + os.sep
    if any(inside in argument or argument.endswith(folder) for argument in process.cmdline()):
        return True
    return any(file.path.startswith(inside) for file in process.open_files())


def remove_temp_dir(run: Run) -> None:
    """Delete the run's private folder, and nothing that was not made as one."""
    folder = Path(run.temp_dir)
    if folder.name.startswith(TEMP_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
