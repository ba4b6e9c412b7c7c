"""Calls of the draft for traced texts: a span and a line in the log for each row."""

from __future__ import annotations

import logging
import time
from typing import Any

from ray._common.formatters import JSONFormatter

from s2d_ray.config import LogFormat, TelemetryConfig
from s2d_ray.engine.protocol import ProposeCall, ProposeReply
from s2d_ray.observe.spans import Export, Span, child_of
from s2d_ray.serve.tracing import exporter

TEXT_FORMAT = "%(levelname)s %(asctime)s draft -- %(message)s"

logger = logging.getLogger("ray.serve")


def draft_watch(telemetry: TelemetryConfig) -> DraftWatch | None:
    """What watches the calls of a draft actor; None if nothing is traced."""
    export = exporter(telemetry, "draft")
    return None if export is None else DraftWatch(export)


def log_as(log_format: LogFormat) -> None:
    """Log to stderr: the draft is no replica, whose log Serve would set up."""
    handler = logging.StreamHandler()
    is_json = log_format is LogFormat.JSON
    handler.setFormatter(JSONFormatter() if is_json else logging.Formatter(TEXT_FORMAT))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    logging.basicConfig(handlers=[handler])


class DraftWatch:
    """Looks at answered calls."""

    def __init__(self, export: Export) -> None:
        self._export = export

    def answered(self, call: ProposeCall, reply: ProposeReply, started_ns: int) -> None:
        """A call that came then has its answer now."""
        tags = {row.draft_session: row.tag for row in call.rows if row.tag is not None}
        if not tags:
            return
        ended_ns = time.time_ns()
        for row in reply.rows:
            tag = tags.get(row.draft_session)
            if tag is None:
                continue
            fields: dict[str, Any] = {
                "request_id": tag.request_id,
                "tenant": tag.tenant,
                "attempt": tag.attempt,
                "text": row.draft_session,
                "at_length": row.at_length,
                "status": row.status.value,
                "guesses": len(row.tokens),
                "rows_of_call": len(call.rows),
            }
            logger.info("drafted %d for request %s", len(row.tokens), tag.request_id, extra=fields)
            name = child_of(tag.traceparent)
            self._export(Span("draft", name, tag.traceparent, started_ns, ended_ns, fields))
