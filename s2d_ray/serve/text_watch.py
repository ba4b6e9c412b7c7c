"""One text at its target replica, from its request to its end: a line in the log, and a span."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from s2d_ray.engine.messages import Delta, Event, Finished, GenerateRequest, Refused
from s2d_ray.observe.spans import Export, Span, child_of

logger = logging.getLogger("ray.serve")

Observe = Callable[[Sequence[Event]], None]

BROKEN_OFF = "broken off"
"""How a text ended that nobody listened to any more, or that was lost."""


@dataclass
class TextWatch:
    """Sees the events of one text. how: it ended, in a word."""

    target: str
    request: GenerateRequest
    num_tokens: int = 0
    how: str = BROKEN_OFF
    status: int = 0
    started_ns: int = field(default_factory=time.time_ns)

    def take(self, events: Sequence[Event]) -> None:
        """What is told of the text."""
        for event in events:
            if isinstance(event, Delta):
                self.num_tokens += len(event.token_ids)
            elif isinstance(event, Finished):
                self.how = event.reason.value
            elif isinstance(event, Refused):
                self.how = event.code or "refused"
                self.status = event.status

    def fields(self) -> dict[str, Any]:
        """What log and span tell of it; no word of the text."""
        tag = self.request.tag
        return {
            "request_id": tag.request_id,
            "tenant": tag.tenant,
            "target": self.target,
            "attempt": tag.attempt,
            "text": self.request.request_id,
            "ended": self.how,
            "output_tokens": self.num_tokens,
        }


class TextWatcher:
    """Of one replica. export: takes spans of traced texts."""

    def __init__(self, target: str, export: Export | None) -> None:
        self._target = target
        self._export = export

    @contextmanager
    def watch(self, request: GenerateRequest) -> Iterator[tuple[GenerateRequest, Observe]]:
        """-> the request as the engine shall have it, and what is to be told its events."""
        parent = request.tag.traceparent if self._export is not None else ""
        own = child_of(parent) if parent else ""
        request = replace(request, tag=replace(request.tag, traceparent=own))
        watch = TextWatch(self._target, request)
        try:
            yield request, watch.take
        finally:
            self._end(watch, parent)

    def _end(self, watch: TextWatch, parent: str) -> None:
        ended_ns, fields = time.time_ns(), watch.fields()
        total_ms = (ended_ns - watch.started_ns) / 1e6
        logger.info(
            "text %s of request %s, attempt %d: %s after %d tokens, %.0f ms",
            fields["text"],
            fields["request_id"],
            fields["attempt"],
            fields["ended"],
            fields["output_tokens"],
            total_ms,
            extra=fields | {"total_ms": round(total_ms, 3)},
        )
        if self._export is not None and parent:
            own = watch.request.tag.traceparent
            failed = watch.status >= 500
            self._export(Span("target", own, parent, watch.started_ns, ended_ns, fields, failed))
