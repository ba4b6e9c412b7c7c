"""Turns: engine processes on one CPU host run their forwards one after another, with all cores.

Two processes that both use all cores at once pay a scheduler slice per matrix product. The lock is
an advisory file lock, so it dies with its process. Waiters first queue at a gate that the next
holder keeps until it has the lock: whoever just had a turn cannot overtake those who wait.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from s2d_ray.config import Device
from s2d_ray.errors import RunError

POLL_S = 0.0005


class Turns:
    """No turns to take: an engine with a device of its own."""

    num_turns = 0
    num_impatient = 0

    def turn(self) -> AbstractContextManager[None]:
        """Hold the host for one forward."""
        return nullcontext()


class HostTurns(Turns):
    """The turn lock of a host. One instance per engine thread.

    A wait longer than `patience_s` ends without the lock: the forward then runs beside another,
    and `num_impatient` counts it. So a stuck holder slows its neighbours but never stops them.
    """

    def __init__(self, folder: Path, patience_s: float = 0.5) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise RunError(f"{folder}: belongs to another user; remove it")
        self._gate = os.open(folder / "gate.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._lock = os.open(folder / "turn.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._patience_s = patience_s
        self.num_turns = 0
        self.num_impatient = 0

    @contextmanager
    def turn(self) -> Iterator[None]:
        deadline_s = time.monotonic() + self._patience_s
        at_gate = _acquire(self._gate, deadline_s)
        held = at_gate and _acquire(self._lock, deadline_s)
        if at_gate:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        self.num_turns += 1
        self.num_impatient += not held
        try:
            yield
        finally:
            if held:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the files back."""
        os.close(self._gate)
        os.close(self._lock)


def _acquire(descriptor: int, deadline_s: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(POLL_S)
        else:
            return True


def turns_for(device: Device) -> Turns:
    """The turns of this host for an engine on the CPU; a GPU's engine needs none."""
    from s2d_ray.models.loading import choose_device  # the lock itself needs no torch

    if choose_device(device).type != "cpu":
        return Turns()
    return HostTurns(Path(tempfile.gettempdir()) / f"s2d-turns-{os.getuid()}")
