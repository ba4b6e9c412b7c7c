"""The draft may die or hang at any moment: texts do not change, and drafting comes back."""

from __future__ import annotations

import dataclasses
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest

from s2d_ray.serve import deploy
from tests.serve.service import PROMPTS, TARGETS, Ask, Service, ids_of

ASKS = [
    Ask(TARGETS[index % 2], prompt, "force", 0.8, seed=200 + index, max_tokens=24)
    for index, prompt in enumerate(PROMPTS)
]


@pytest.fixture(scope="module")
def plain_ids(service: Service) -> list[list[int]]:
    """The eight texts without any draft."""
    replies = service.ask_all([dataclasses.replace(ask, mode="off") for ask in ASKS])
    return [ids_of(reply) for reply in replies]


def _draft_pid(service: Service) -> int:
    pid: int = service.health()["draft"]["pid"]
    return pid


def _stop_while_it_holds_the_turn(pid: int) -> None:
    """SIGSTOP a process at a moment when it holds the host's turn lock."""
    turn = Path(tempfile.gettempdir()) / f"s2d-turns-{os.getuid()}" / "turn.lock"
    inode = f":{turn.stat().st_ino}"

    def holds() -> bool:
        locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(
            fields[1] == "FLOCK" and int(fields[4]) == pid and fields[5].endswith(inode)
            for fields in locks
            if fields[1] != "->"
        )

    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if holds():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.01)
            if holds():
                return
            os.kill(pid, signal.SIGCONT)
    raise AssertionError("the draft never held the turn")


@pytest.mark.parametrize("fault", ["killed", "hung"])
def test_eight_streams_end_with_the_same_text_when_the_draft_is(
    service: Service, plain_ids: list[list[int]], fault: str
) -> None:
    """The fault strikes while all eight are drafting; afterwards a new draft answers again."""
    service.wait_for_draft()
    starts = service.health()["draft"]["num_starts"]
    pid = _draft_pid(service)
    replies: list[dict[str, object]] = []
    running = threading.Thread(target=lambda: replies.extend(service.ask_all(ASKS)))
    running.start()
    service.wait_until(
        lambda: sum(service.counters(target)["queue_depth"] for target in TARGETS) == 8,
        "eight running requests",
    )
    if fault == "killed":
        os.kill(pid, signal.SIGKILL)
    else:
        _stop_while_it_holds_the_turn(pid)
    struck_s = time.monotonic()
    running.join()
    assert [ids_of(reply) for reply in replies] == plain_ids
    service.wait_until(
        lambda: (
            service.health()["draft"].get("num_starts", 0) > starts
            and bool(service.health()["draft"].get("alive"))
        ),
        "a new draft",
    )
    service.wait_for_draft()
    print(f"draft {fault}: drafting again after {time.monotonic() - struck_s:.1f} s")
    again = service.ask(ASKS[1])
    assert ids_of(again) == plain_ids[1]
    details = again["usage"]["completion_tokens_details"]
    assert details["rejected_prediction_tokens"] + details["accepted_prediction_tokens"] > 0


def test_a_draft_that_cannot_start_leaves_the_service_ready_and_plain(
    service: Service, plain_ids: list[list[int]], tmp_path: Path
) -> None:
    """A damaged draft restarts the draft application only; texts stay, /readyz says degraded."""
    damaged = tmp_path / "draft"
    damaged.mkdir()
    (damaged / "draft.json").write_text("{}")
    assert service.config.draft is not None
    broken = service.config.model_copy(
        update={"draft": service.config.draft.model_validate({"checkpoint": str(damaged)})}
    )
    forwards = service.counters(TARGETS[0])["forwards"]
    deploy.deploy(broken)
    try:
        service.wait_until(
            lambda: "draft.json" in (service.health()["draft"].get("last_error") or ""),
            "the reason why the draft cannot start",
        )
        ready = service.http.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["status"] == "degraded"
        asks = [dataclasses.replace(ask, mode="auto") for ask in ASKS[:2]]
        assert [ids_of(reply) for reply in service.ask_all(asks)] == plain_ids[:2]
        # The same replicas still run: their counters went on, not back to nothing.
        assert service.counters(TARGETS[0])["forwards"] > forwards
    finally:
        deploy.deploy(service.config)
        service.wait_for_draft()
