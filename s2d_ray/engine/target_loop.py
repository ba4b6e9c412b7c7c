"""The thread that drives a target engine: inbox, proposals, forward, draws, events."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from s2d_ray.core.memory import is_out_of_memory
from s2d_ray.engine.drawing import Drawn, Grammar, draw_rows
from s2d_ray.engine.messages import NO_MEMORY, Finished, GenerateRequest, Refused
from s2d_ray.engine.protocol import Proposer
from s2d_ray.engine.steering import Steering, Times
from s2d_ray.engine.step import Step
from s2d_ray.engine.target_batch import TargetBatch
from s2d_ray.engine.target_engine import Publish
from s2d_ray.errors import RequestError
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import Copy

logger = logging.getLogger(__name__)

Turn = Callable[[], AbstractContextManager[None]]

TELL_AGAIN_S = 2.0
"""Between two tries of an idle loop to tell a draft that cannot be asked which sessions ended."""


class Forward(Protocol):
    """What the loop needs of a model; see `models.ragged.RaggedModel`."""

    def forward(
        self, token_ids: Sequence[int], segments: Sequence[Segment], wanted_rows: Sequence[int]
    ) -> Tensor: ...

    def copy(self, copies: Sequence[Copy]) -> None: ...


@dataclass(frozen=True)
class _Add:
    request: GenerateRequest
    prompt_ids: list[int]
    publish: Publish
    grammar: Grammar | None


@dataclass(frozen=True)
class _Abort:
    request_id: str


@dataclass(frozen=True)
class _Stop:
    pass


class TargetLoop:
    """Owns the batch: every other thread talks to it through `submit`, `abort` and `stop`.

    publish callbacks run on the loop's thread and must not block. steering: by default rows follow
    the plans of their requests.
    """

    def __init__(
        self,
        batch: TargetBatch,
        model: Forward,
        proposer: Proposer,
        *,
        turn: Turn = nullcontext,
        num_threads: int = 0,
        steering: Steering | None = None,
    ) -> None:
        self.steering = steering or Steering()
        self._batch = batch
        self._model = model
        self._proposer = proposer
        self._turn = turn
        self._num_threads = num_threads
        self._inbox: queue.SimpleQueue[_Add | _Abort | _Stop] = queue.SimpleQueue()
        self._publish: dict[str, Publish] = {}
        self._stopping = False
        self._progress_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="target-loop", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def submit(
        self,
        request: GenerateRequest,
        prompt_ids: list[int],
        publish: Publish,
        grammar: Grammar | None = None,
    ) -> None:
        """Queue a request; its events, a refusal included, go to `publish`.

        grammar: what its text must follow, in the state before the first token.
        """
        self._inbox.put(_Add(request, prompt_ids, publish, grammar))

    def abort(self, request_id: str) -> None:
        """Forget a request before the next round; its events stop."""
        self._inbox.put(_Abort(request_id))

    def stop(self) -> None:
        """End the thread after the round it is in."""
        self._inbox.put(_Stop())
        self._thread.join()

    @property
    def silent_s(self) -> float:
        """Time since the thread last moved; 0 while it has nothing to do, infinite once dead."""
        if not self._thread.is_alive():
            return float("inf")
        return time.monotonic() - self._progress_s if self._batch.queue_depth else 0.0

    def _run(self) -> None:
        if self._num_threads:
            torch.set_num_threads(self._num_threads)
        while not self._stopping:
            self._drain_inbox()
            if not self._stopping and self._batch.queue_depth:
                self._round_or_fail()
            self._progress_s = time.monotonic()

    def _drain_inbox(self) -> None:
        """Handle what has arrived; with nothing to compute, wait for something."""
        if not self._batch.queue_depth:
            message = self._wait_for_message()
            self._progress_s = time.monotonic()  # it was idle, not stuck
            self._handle(message)
        while True:
            try:
                self._handle(self._inbox.get_nowait())
            except queue.Empty:
                return

    def _wait_for_message(self) -> _Add | _Abort | _Stop:
        """The next message; meanwhile the draft is told which sessions ended, once it can be."""
        while True:
            self._tell_closed()
            untold = self._batch.has_closed_sessions
            try:
                return self._inbox.get(timeout=TELL_AGAIN_S if untold else None)
            except queue.Empty:
                continue

    def _tell_closed(self) -> None:
        """Before going idle, let the draft free the sessions that ended."""
        if self._batch.has_closed_sessions and self._proposer.available():
            call = self._batch.ask(draft_available=True)
            if call is not None:
                self._batch.take_reply(self._proposer.propose(call, force=False))

    def _handle(self, message: _Add | _Abort | _Stop) -> None:
        if isinstance(message, _Stop):
            self._stopping = True
        elif isinstance(message, _Abort):
            self._publish.pop(message.request_id, None)
            self._batch.abort(message.request_id)
        else:
            try:
                events = self._batch.add(message.request, message.prompt_ids, message.grammar)
            except RequestError as error:
                message.publish(Refused(error.status, error.message, error.param, error.code))
                return
            if not isinstance(events[-1], Finished):
                self._publish[message.request.request_id] = message.publish
            for event in events:
                message.publish(event)

    def _round_or_fail(self) -> None:
        try:
            self._round()
        except Exception:
            logger.exception("a forward failed; its sequences are given up")
            for request_id in self._batch.fail_all():
                publish = self._publish.pop(request_id, None)
                if publish is not None:
                    publish(Refused(500, "the target failed while writing this text"))

    def _round(self) -> None:
        """Propose, forward, verify, commit."""
        started_s = time.monotonic()
        can_ask = self._proposer.available()
        self.steering.begin(self._batch.running, draft_available=can_ask)
        call = self._batch.ask(can_ask)
        if call is not None:
            force = self._batch.asked_forced
            self._batch.take_reply(self._proposer.propose(call, force))
        called_s = time.monotonic()
        step = self._batch.plan()
        if step is None:
            return
        drawn = self._compute(step)
        computed_s = time.monotonic()
        if drawn is None:
            refused = self._batch.give_way(step)
            if refused is not None:
                self._publish.pop(refused)(NO_MEMORY)
            return
        for request_id, event in self._batch.commit(step, drawn):
            ended = isinstance(event, Finished)
            publish = self._publish.pop(request_id) if ended else self._publish[request_id]
            publish(event)
        whole_s = time.monotonic() - started_s
        self.steering.end(step, Times(called_s - started_s, computed_s - called_s, whole_s))

    def _compute(self, step: Step) -> list[Drawn] | None:
        """The draws of a step; None if memory did not suffice for it."""
        with self._turn():
            self._model.copy(step.copies)
            try:
                logits = self._model.forward(step.token_ids, step.segments, step.wanted_rows)
                return draw_rows(logits, step.draws)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("no memory for %d rows: %s", len(step.token_ids), error)
        return None
