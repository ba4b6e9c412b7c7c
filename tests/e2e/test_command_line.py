"""`s2d serve` as a user runs it: one start, the README's blocks against it, and a hard end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.blocks import shell_blocks
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_TIMEOUT_S = 240
COMMAND_TIMEOUT_S = 120

# Blocks that no test runs inside the tests: they fetch the project, are the tests, or take minutes.
EXCEPTIONS = (
    *("git clone", "make serve", "make test", "make stop", "make exact", "make load"),
    *("s2d bench engine", "s2d corpus", "s2d train", "s2d evaluate-draft"),
    *("s2d calibrate", "s2d sweep", "s2d verdict"),
)


@dataclass(frozen=True)
class Run:
    """A started `s2d serve`."""

    process: subprocess.Popen[str]
    url: str
    environment: dict[str, str]
    ready: dict[str, object]

    def s2d(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "s2d", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )


@pytest.fixture(scope="module")
def run(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("run")
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(folder),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    ready_file, port = folder / "ready.json", free_port()
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [BIN / "s2d", "serve", "--port", str(port), "--ready-file", ready_file],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            _wait_for(ready_file, process, folder / "log")
            ready = json.loads(ready_file.read_text())
            yield Run(process, f"http://127.0.0.1:{port}", environment, ready)
        finally:
            subprocess.run([BIN / "s2d", "stop"], env=environment, check=True, timeout=120)
            process.wait(timeout=COMMAND_TIMEOUT_S)


def _wait_for(ready_file: Path, process: subprocess.Popen[str], log: Path) -> None:
    for _ in range(START_TIMEOUT_S * 10):
        if ready_file.exists():
            return
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"`s2d serve` did not become ready:\n{log.read_text()}")


def test_the_ready_file_names_url_and_process(run: Run) -> None:
    """What a script waits for."""
    assert run.ready == {"url": run.url, "pid": run.process.pid}


@pytest.mark.parametrize("target", ["smollm2-135m", "smollm2-135m-int8"])
def test_chat_answers_in_json_with_who_drafted(run: Run, target: str) -> None:
    """One question to each target, forced, from the command line."""
    question = "What is the capital of France?"
    done = run.s2d(
        *("chat", "--url", run.url, "--model", target, "--temperature", "0"),
        *("--mode", "force", "--json", question),
    )
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert "Paris" in reply["text"]
    assert reply["s2d"]["mode"] == "force"
    assert reply["usage"]["completion_tokens_details"]["rejected_prediction_tokens"] > 0


def test_a_second_serve_is_refused_while_the_first_runs(run: Run) -> None:
    """One line that names the running process and the way out; the first run is not harmed."""
    done = run.s2d("serve", "--port", str(free_port()))
    assert done.returncode == 2
    assert str(run.process.pid) in done.stderr
    assert "s2d stop" in done.stderr
    assert "Traceback" not in done.stderr
    assert run.process.poll() is None


@pytest.mark.parametrize(
    "block", shell_blocks("README.md"), ids=lambda block: block.split("\n")[0][:40]
)
def test_readme_block_runs(run: Run, block: str) -> None:
    """Every shell block of the README ends without error, at this run's address."""
    if any(line.startswith(EXCEPTIONS) for line in block.splitlines()):
        assert all(line.startswith(("cd ", *EXCEPTIONS)) for line in block.splitlines())
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.replace("http://127.0.0.1:8000", run.url)],
        cwd=ROOT,
        env=run.environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    assert '"error"' not in done.stdout


def test_stop_leaves_no_process_of_a_killed_run(run: Run) -> None:
    """SIGKILL to the command line; then `s2d stop` ends whatever of its tree is left."""
    family = psutil.Process(run.process.pid).children(recursive=True)
    assert any("ray" in " ".join(child.cmdline()) for child in family)
    run.process.send_signal(signal.SIGKILL)
    run.process.wait(timeout=COMMAND_TIMEOUT_S)
    done = run.s2d("stop")
    assert done.returncode == 0, done.stderr
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert "nothing" in run.s2d("stop").stdout.lower()
