"""Texts out of a target engine in this process: requests go in together, their events come back."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from s2d_ray.engine.messages import Delta, Event, Finished, GenerateRequest, Refused
from s2d_ray.engine.target_engine import TargetEngine
from s2d_ray.errors import RunError


def write_together(target: TargetEngine, requests: Sequence[GenerateRequest]) -> list[list[Event]]:
    """Queue all requests at once and wait for their ends. -> the events of each."""
    events: list[list[Event]] = [[] for _ in requests]
    ended = threading.Semaphore(0)
    for request, told in zip(requests, events, strict=True):
        _send(target, request, told, ended)
    for _ in requests:
        ended.acquire()
    return events


def _send(
    target: TargetEngine, request: GenerateRequest, told: list[Event], ended: threading.Semaphore
) -> None:
    def publish(event: Event) -> None:
        told.append(event)
        if isinstance(event, Finished | Refused):
            ended.release()

    target.prepare(request)(publish)


def end_of(events: Sequence[Event], name: str) -> Finished:
    """The end of a text that was served. Raises RunError if it was refused."""
    last = events[-1]
    if not isinstance(last, Finished):
        raise RunError(f"{name}: {last.message if isinstance(last, Refused) else 'no end'}")
    return last


def ids_of(events: Sequence[Event]) -> tuple[int, ...]:
    """The ids of a text that was asked for with `trace`."""
    deltas = [event for event in events if isinstance(event, Delta)]
    return tuple(token.token_id for delta in deltas for token in delta.tokens)
