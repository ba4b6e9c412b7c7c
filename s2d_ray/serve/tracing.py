"""Spans on their way out: as lines of JSON into files, or by OTLP. OpenTelemetry's own classes.

Loaded by the processes of a cluster only if traces are on.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from s2d_ray import __version__
from s2d_ray.config import TelemetryConfig, Traces
from s2d_ray.observe.spans import Export, Span
from s2d_ray.serve.line_log import LineLog

OTLP_PACKAGE = "opentelemetry-exporter-otlp-proto-http"


def has_otlp() -> bool:
    """Whether the package that sends by OTLP is there: neither Ray nor this project brings it."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def exporter(telemetry: TelemetryConfig, process: str) -> Export | None:
    """Where a process's spans go; None if traces are off.

    process: "router", "draft" or the target's name. `has_otlp` must hold for OTLP.
    """
    if telemetry.traces is Traces.OFF:
        return None
    from opentelemetry.sdk.resources import Resource

    labels = {"service.name": "s2d-ray", "service.version": __version__, "s2d.process": process}
    resource = Resource.create(labels)
    if telemetry.traces is Traces.FILE:
        assert telemetry.traces_dir is not None
        return SpanFile(Path(telemetry.traces_dir), process, resource)
    processor = _otlp(telemetry.otlp_endpoint)
    return lambda span: processor.on_end(readable(span, resource))


class SpanFile:
    """Writes spans into a file of the process, in OpenTelemetry's JSON. A full disk loses them."""

    def __init__(self, folder: Path, process: str, resource: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = LineLog(folder / f"{process}-{os.getpid()}.jsonl")
        self._resource = resource

    def __call__(self, span: Span) -> None:
        """One line more."""
        self._log.write(readable(span, self._resource).to_json(indent=None))

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def readable(span: Span, resource: Any) -> Any:
    """A span as OpenTelemetry has it."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    trace, own, parent = span.ids
    flags = TraceFlags(TraceFlags.SAMPLED)
    return ReadableSpan(
        span.name,
        context=SpanContext(trace, own, is_remote=False, trace_flags=flags),
        parent=SpanContext(trace, parent, is_remote=True, trace_flags=flags),
        resource=resource,
        attributes=dict(span.attributes),
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR if span.failed else StatusCode.OK),
        start_time=span.started_ns,
        end_time=span.ended_ns,
    )


def _otlp(endpoint: str | None) -> Any:
    """A processor that sends spans in bundles, from a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))
