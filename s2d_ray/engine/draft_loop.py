"""The thread that drives the draft engine, and the future each call is answered through."""

from __future__ import annotations

import logging
import queue
import threading
import time
from concurrent.futures import Future
from contextlib import nullcontext

import torch

from s2d_ray.core.memory import is_out_of_memory
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.protocol import ProposeCall, ProposeReply
from s2d_ray.engine.target_loop import Turn

logger = logging.getLogger(__name__)

EXPIRE_EVERY_S = 1.0

Answer = Future[ProposeReply]


class DraftLoop:
    """Owns the draft engine: calls come in from any thread, replies go out through futures."""

    def __init__(
        self, engine: DraftEngine, *, turn: Turn = nullcontext, num_threads: int = 0
    ) -> None:
        self._engine = engine
        self._turn = turn
        self._num_threads = num_threads
        self._inbox: queue.SimpleQueue[tuple[ProposeCall, Answer, float] | None] = (
            queue.SimpleQueue()
        )
        self._answers: dict[tuple[str, int], Answer] = {}
        self._stopping = False
        self._busy_s = 0.0
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="draft-loop", daemon=True)

    def start(self) -> None:
        """Begin to draft."""
        self._thread.start()

    def submit(self, call: ProposeCall) -> Answer:
        """Queue a call. Its budget starts now."""
        answer: Answer = Future()
        self._inbox.put((call, answer, time.monotonic()))
        return answer

    def stop(self) -> None:
        """End the thread after the step it is in."""
        self._inbox.put(None)
        self._thread.join()

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """Layers of each sub-model, the shallowest first."""
        return self._engine.exit_layers

    def stuck_for_s(self) -> float:
        """How long the present step has been running; infinite if the thread has died."""
        if not self._thread.is_alive():
            return float("inf")
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def counters(self) -> dict[str, int]:
        """A copy of the engine's counters, the sessions it holds now, and how long it computed."""
        return {
            **self._engine.counters,
            "sessions": self._engine.num_sessions,
            "busy_microseconds": round(1e6 * self._busy_s),
        }

    def _run(self) -> None:
        if self._num_threads:
            torch.set_num_threads(self._num_threads)
        while not self._stopping:
            self._drain_inbox()
            self._answer_finished()  # what admission alone has answered
            if not self._engine.is_idle:
                self._step()
                self._answer_finished()
            self._engine.expire(time.monotonic())

    def _drain_inbox(self) -> None:
        wait_s = EXPIRE_EVERY_S if self._engine.is_idle else 0.0
        try:
            self._handle(self._inbox.get(timeout=wait_s))
            while True:
                self._handle(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _handle(self, item: tuple[ProposeCall, Answer, float] | None) -> None:
        if item is None:
            self._stopping = True
            return
        call, answer, arrived_s = item
        self._answers[call.replica, call.call_no] = answer
        self._engine.receive(call, arrived_s)

    def _step(self) -> None:
        self._busy_since_s = time.monotonic()
        with self._turn():
            started_s = time.monotonic()
            try:
                self._engine.step(started_s)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise  # the thread ends, and the manager makes another draft
                logger.warning("no memory for a step, the draft's cache is emptied: %s", error)
                self._engine.give_up()
            self._busy_s += time.monotonic() - started_s
        self._engine.note_step_cost(time.monotonic() - self._busy_since_s)
        self._busy_since_s = None

    def _answer_finished(self) -> None:
        for replica, reply in self._engine.finished():
            answer = self._answers.pop((replica, reply.call_no), None)
            if answer is not None and answer.set_running_or_notify_cancel():
                answer.set_result(reply)
