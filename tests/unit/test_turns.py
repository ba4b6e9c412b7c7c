"""Turns of processes on one host: one at a time, fair, and no holder can stop the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from s2d_ray.engine.turns import HostTurns

LONG_S = 60.0
SHORT_S = 0.05

# Forking a process that has loaded torch and threads is not safe.
PROCESSES = multiprocessing.get_context("spawn")


def hold(folder: Path, told: Connection) -> None:
    """Take a turn, say so, and keep it."""
    with HostTurns(folder, LONG_S).turn():
        told.send("held")
        told.recv()


def count_up(folder: Path, number: Path, times: int) -> None:
    """Read, think and write a number `times`; two at once would lose counts."""
    turns = HostTurns(folder, LONG_S)
    for _ in range(times):
        with turns.turn():
            seen = int(number.read_text())
            sum(range(2_000))
            number.write_text(str(seen + 1))
    assert turns.num_impatient == 0


def take_turns(folder: Path, log: Path, total: int, ready: Any) -> None:
    """Append this process's id to a common log at each turn, until it has `total` lines."""
    turns = HostTurns(folder, LONG_S)
    ready.wait(LONG_S)
    while True:
        with turns.turn():
            if len(log.read_text().splitlines()) >= total:
                return
            with log.open("a") as lines:
                lines.write(f"{os.getpid()}\n")
            sum(range(100_000))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Any]:
    """A process that holds the turn."""
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=hold, args=(tmp_path, there))
    process.start()
    assert here.poll(LONG_S)
    assert here.recv() == "held"
    yield process
    process.kill()
    process.join()
    here.close()
    there.close()


def test_two_processes_never_hold_the_turn_together(tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    workers = [PROCESSES.Process(target=count_up, args=(tmp_path, number, 300)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONG_S)
        assert worker.exitcode == 0
    assert number.read_text() == "600"


def test_the_turn_of_a_killed_process_is_free(tmp_path: Path, holder: Any) -> None:
    turns = HostTurns(tmp_path, SHORT_S)
    with turns.turn():
        assert turns.num_impatient == 1
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with turns.turn():
        pass
    assert (turns.num_turns, turns.num_impatient) == (2, 1)
    turns.close()


def test_a_stopped_holder_costs_patience_but_stops_nobody(tmp_path: Path, holder: Any) -> None:
    os.kill(holder.pid, signal.SIGSTOP)
    turns = HostTurns(tmp_path, SHORT_S)
    for _ in range(3):
        with turns.turn():
            pass
    assert (turns.num_turns, turns.num_impatient) == (3, 3)
    turns.close()


def test_a_forward_without_the_turn_does_not_free_it_for_others(
    tmp_path: Path, holder: Any
) -> None:
    impatient, third = HostTurns(tmp_path, SHORT_S), HostTurns(tmp_path, SHORT_S)
    with impatient.turn():
        pass
    with third.turn():
        assert third.num_impatient == 1
    impatient.close()
    third.close()


def test_a_forward_that_fails_gives_its_turn_back(tmp_path: Path) -> None:
    turns = [HostTurns(tmp_path, SHORT_S) for _ in range(2)]
    with pytest.raises(ValueError, match="a bad forward"), turns[0].turn():
        raise ValueError("a bad forward")
    with turns[1].turn():
        pass
    assert turns[1].num_impatient == 0
    for turn in turns:
        turn.close()


def test_three_busy_processes_get_about_equal_shares(tmp_path: Path) -> None:
    """Counted over turns, not time; a lock that its last holder may grab again would starve two."""
    log = tmp_path / "log"
    log.write_text("")
    ready = PROCESSES.Barrier(3)
    total = 300
    workers = [
        PROCESSES.Process(target=take_turns, args=(tmp_path, log, total, ready)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(LONG_S)
        assert worker.exitcode == 0
    takers = log.read_text().splitlines()
    shares = [takers.count(str(worker.pid)) for worker in workers]
    assert sum(shares) == total
    assert min(shares) > total / 3 / 2.5
