"""A target in this process that writes many texts, and hands them on in the order asked for."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from s2d_ray.config import TargetConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.assemble import Target, make_target
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Mode,
    Refused,
    TokenPrompt,
    TokenTrace,
)
from s2d_ray.engine.turns import turns_for
from s2d_ray.errors import RunError
from s2d_ray.models.kv_budget import TokenSize
from s2d_ray.models.loading import read_config

CACHE_PER_TEXT = 512
"""Tokens of cache for each text of the batch; longer ones only pause one another more often."""


@dataclass(frozen=True)
class Task:
    """A text to be written. number: its place in the order of all."""

    number: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams


@dataclass
class Written:
    """A text as it was written."""

    task: Task
    text: str = ""
    traces: list[TokenTrace] = field(default_factory=list)
    reason: FinishReason = FinishReason.LENGTH


class Writer:
    """Writes tasks `batch` at a time; see `open_writer`."""

    def __init__(self, target: Target, batch: int) -> None:
        self.target = target
        self._batch = batch

    def write(
        self, tasks: Iterable[Task], told: Callable[[int], None] = lambda tokens: None
    ) -> Iterator[Written]:
        """The texts in the order of the tasks. The batch stays full while there are tasks.

        told: takes the number of new tokens, as they are written. A reader that leaves early leaves
        texts running. Raises RunError if the target gives up.
        """
        waiting = iter(tasks)
        news: queue.SimpleQueue[tuple[Written, Event]] = queue.SimpleQueue()
        order: list[int] = []
        done: dict[int, Written] = {}

        def start(task: Task) -> None:
            order.append(task.number)
            self._send(task, news)

        for task in itertools.islice(waiting, self._batch):
            start(task)
        while order:
            written, event = news.get()
            if isinstance(event, Refused):
                raise RunError(f"text {written.task.number}: {event.message}")
            if isinstance(event, Delta):
                written.text += event.text
                written.traces += event.tokens
                told(len(event.tokens))
            if isinstance(event, Finished):
                written.reason = event.reason
                done[written.task.number] = written
                for task in itertools.islice(waiting, 1):
                    start(task)
            while order and order[0] in done:
                yield done.pop(order.pop(0))

    def _send(self, task: Task, news: queue.SimpleQueue[tuple[Written, Event]]) -> None:
        request = GenerateRequest(
            f"text-{task.number}",
            TokenPrompt(task.prompt_ids),
            task.sampling,
            Plan(),
            Mode.OFF,
            trace=True,
        )
        written = Written(task)
        self.target.prepare(request)(partial(_publish, news, written))


def _publish(news: queue.SimpleQueue[tuple[Written, Event]], to: Written, event: Event) -> None:
    news.put((to, event))


@contextmanager
def open_writer(config: TargetConfig, folder: Path, batch: int) -> Iterator[Writer]:
    """Load a target that writes `batch` texts at a time, without a draft."""
    size = TokenSize.of(read_config(folder).to_dict()).num_bytes(config.precision)
    wanted_mib = -(-batch * CACHE_PER_TEXT * size // 2**20)
    roomy = config.model_copy(
        update={
            "max_batch": batch,
            "max_waiting": batch,
            "kv_cache_mib": max(config.kv_cache_mib, wanted_mib),
        }
    )
    nobody = DraftClient(deadline_s=1.0, force_deadline_s=1.0)
    turn = turns_for(config.device).turn
    target = make_target(roomy, folder, nobody, "corpus", turn=turn)
    target.loop.start()
    try:
        yield Writer(target, batch)
    finally:
        target.stop()
