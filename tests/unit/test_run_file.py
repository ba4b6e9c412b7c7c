"""One run at a time; whatever a killed run left is found and ended, and nothing else is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from s2d_ray.errors import RunError
from s2d_ray.serve import run_file
from s2d_ray.serve.run_file import ProcessMark, Recorder, Run

Start = Callable[..., subprocess.Popen[str]]
SLEEP = "import time; time.sleep(600)"


@pytest.fixture(autouse=True)
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of the whole test run, such as multiprocessing's own, are none of a test's run."""
    before, all_now = run_file.descendants(), run_file.descendants
    monkeypatch.setattr(
        run_file, "descendants", lambda: tuple(m for m in all_now() if m not in before)
    )


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python processes; those that a test leaves are killed after it."""
    started: list[subprocess.Popen[str]] = []

    def start_one(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "print('up', flush=True)\n" + code, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def temp_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=run_file.TEMP_PREFIX, ignore_cleanup_errors=True) as it:
        yield Path(it)


def mark(process: subprocess.Popen[str]) -> ProcessMark:
    return run_file.mark_of(psutil.Process(process.pid))


def stopped(path: Path, grace_s: float = 30.0) -> list[str]:
    lines: list[str] = []
    run_file.stop(path, lines.append, grace_s)
    return lines


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not happen within 30 s")


def test_a_written_run_is_read_back_and_none_is_none(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    assert run_file.read(path) is None
    run = Run(ProcessMark(1, 2.5), "http://127.0.0.1:1", "folder", (ProcessMark(3, 4.5),))
    run_file.write(path, run)
    assert run_file.read(path) == run
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"main": {"pid": 1}}'])
def test_a_damaged_run_file_is_named_with_the_fix(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"run\.json: not a run file .* delete it"):
        run_file.read(path)


def test_the_run_file_lies_in_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert run_file.default_path() == Path("/state/s2d-ray/run.json")


def test_a_process_is_found_by_its_number_and_start_together(start: Start) -> None:
    process = start(SLEEP)
    named = mark(process)
    assert run_file.find(named)
    assert run_file.find(replace(named, created_s=named.created_s - 60)) is None
    process.kill()
    process.wait()
    assert run_file.find(named) is None


def test_a_process_that_only_waits_to_be_reaped_has_ended(start: Start) -> None:
    process = start(SLEEP)
    named = mark(process)
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: run_file.find(named) is None)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("survivor", ["main", "child"])
def test_a_second_run_is_refused_while_any_process_of_the_first_lives(
    tmp_path: Path, start: Start, survivor: str
) -> None:
    alive, dead = mark(start(SLEEP)), ProcessMark(2**22 + 1, 1.0)
    path = tmp_path / "run.json"
    main, child = (alive, dead) if survivor == "main" else (dead, alive)
    first = Run(main, "http://127.0.0.1:8000", "none", (child,))
    run_file.write(path, first)
    second = Run(run_file.mark_of(psutil.Process()), "http://127.0.0.1:8001", "none")
    with pytest.raises(RunError) as error:
        run_file.claim(path, second)
    assert f"http://127.0.0.1:8000 (process {alive.pid})" in error.value.message
    assert "s2d stop" in error.value.message
    assert run_file.read(path) == first


def test_a_run_that_left_only_its_record_is_replaced_and_its_folder_removed(
    tmp_path: Path, temp_dir: Path
) -> None:
    path = tmp_path / "run.json"
    run_file.write(path, Run(ProcessMark(2**22 + 1, 1.0), "old", str(temp_dir)))
    run = Run(run_file.mark_of(psutil.Process()), "new", "none")
    run_file.claim(path, run)
    assert run_file.read(path) == run
    assert not temp_dir.exists()


def test_only_a_folder_made_for_a_run_is_ever_removed(tmp_path: Path) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    run_file.remove_temp_dir(Run(ProcessMark(1, 1.0), "url", str(folder)))
    assert folder.exists()


def test_stop_says_so_when_nothing_runs(tmp_path: Path) -> None:
    assert stopped(tmp_path / "run.json") == ["nothing is running"]


def test_stop_asks_first_and_the_asked_one_ends_by_itself(
    tmp_path: Path, temp_dir: Path, start: Start
) -> None:
    process = start(SLEEP)
    run_file.write(tmp_path / "run.json", Run(mark(process), "http://a", str(temp_dir)))
    lines = stopped(tmp_path / "run.json")
    assert process.wait() == -signal.SIGTERM
    assert lines == [
        f"asking process {process.pid} at http://a to end",
        "ended the run at http://a",
    ]
    assert not temp_dir.exists()
    assert not (tmp_path / "run.json").exists()


def test_stop_waits_while_open_requests_go_on(
    tmp_path: Path, temp_dir: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says how long that may be, and how to end it at once."""
    monkeypatch.setattr(run_file, "SOON_S", 0.0)
    end_later = "lambda *_: time.sleep(0.3) or sys.exit(7)"
    code = f"import signal, sys, time; signal.signal(signal.SIGTERM, {end_later})"
    process = start(f"{code}\n{SLEEP}")
    wait_until(lambda: signal.SIGTERM in caught_signals(process.pid))
    run = Run(mark(process), "http://a", str(temp_dir), drain_s=60.0)
    run_file.write(tmp_path / "run.json", run)
    assert run_file.read(tmp_path / "run.json") == run
    lines = stopped(tmp_path / "run.json", grace_s=0.0)
    assert process.wait() == 7, "it ended by itself"
    assert lines[1] == ("open requests go on for up to 60 s; `s2d stop` again ends them at once")


def test_stop_kills_what_does_not_listen(tmp_path: Path, temp_dir: Path, start: Start) -> None:
    deaf = start(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLEEP}")
    wait_until(lambda: signal.SIGTERM in ignored_signals(deaf.pid))
    run_file.write(tmp_path / "run.json", Run(mark(deaf), "http://a", str(temp_dir)))
    lines = stopped(tmp_path / "run.json", grace_s=0.0)
    assert deaf.wait() == -signal.SIGKILL
    assert f"killing 1 left processes: {deaf.pid}" in lines


def ignored_signals(pid: int) -> set[int]:
    return signals_of(pid, "SigIgn")


def caught_signals(pid: int) -> set[int]:
    return signals_of(pid, "SigCgt")


def signals_of(pid: int, kind: str) -> set[int]:
    text = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in text.splitlines() if line.startswith(kind)).split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_stop_after_a_kill_ends_the_recorded_children_and_no_namesake(
    tmp_path: Path, temp_dir: Path, start: Start
) -> None:
    child, stranger = start(SLEEP), start(SLEEP)
    reused = replace(mark(stranger), created_s=mark(stranger).created_s - 60)
    run = Run(ProcessMark(2**22 + 1, 1.0), "http://a", str(temp_dir), (mark(child), reused))
    run_file.write(tmp_path / "run.json", run)
    stopped(tmp_path / "run.json")
    assert child.wait() == -signal.SIGKILL
    assert stranger.poll() is None


def test_stop_finds_unrecorded_processes_by_the_runs_folder(
    tmp_path: Path, temp_dir: Path, start: Start
) -> None:
    by_argument = start(SLEEP, f"--session-dir={temp_dir}/session")
    by_open_file = start(f"f = open({str(temp_dir / 'worker.log')!r}, 'w')\n{SLEEP}")
    bystander = start(SLEEP, f"{temp_dir}-other")
    wait_until(lambda: len(run_file.inhabitants(str(temp_dir))) >= 2)
    run = Run(ProcessMark(2**22 + 1, 1.0), "http://a", str(temp_dir))
    run_file.write(tmp_path / "run.json", run)
    stopped(tmp_path / "run.json")
    assert by_argument.wait() == -signal.SIGKILL
    assert by_open_file.wait() == -signal.SIGKILL
    assert bystander.poll() is None


def test_a_pager_on_a_log_of_the_run_is_left_alone(tmp_path: Path, temp_dir: Path) -> None:
    log = temp_dir / "worker.log"
    log.write_text("line\n")
    with subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.PIPE) as pager:
        assert pager.stdout is not None
        pager.stdout.readline()
        assert run_file.inhabitants(str(temp_dir)) == []
        pager.kill()


def test_the_recorder_records_descendants_and_finish_leaves_nothing(
    tmp_path: Path, temp_dir: Path, start: Start
) -> None:
    path = tmp_path / "run.json"
    run = Run(run_file.mark_of(psutil.Process()), "http://a", str(temp_dir))
    recorder = Recorder(path, run)
    recorder.start()
    child = start(SLEEP)
    recorder.refresh()
    assert mark(child) in json_marks(path)
    recorder.finish(lambda line: None)
    assert child.wait() == -signal.SIGKILL
    assert not path.exists()
    assert not temp_dir.exists()


def test_a_child_stays_recorded_after_its_parent_is_gone(tmp_path: Path, temp_dir: Path) -> None:
    """A grandchild that lost its parent is no descendant any more, yet must still be ended."""
    code = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
        print(child.pid, flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    path = tmp_path / "run.json"
    recorder = Recorder(path, Run(run_file.mark_of(psutil.Process()), "url", str(temp_dir)))
    recorder.start()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        grandchild = run_file.mark_of(psutil.Process(int(parent.stdout.readline())))
        recorder.refresh()
        parent.kill()
    recorder.refresh()
    assert grandchild in json_marks(path)
    recorder.finish(lambda line: None)
    assert run_file.find(grandchild) is None


def json_marks(path: Path) -> set[ProcessMark]:
    return {ProcessMark(**item) for item in json.loads(path.read_text())["children"]}
