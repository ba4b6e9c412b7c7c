"""Logs and traces."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from s2d_ray.config.section import Section


class LogFormat(StrEnum):
    """How a line of a log is written."""

    TEXT = "text"
    JSON = "json"


class Traces(StrEnum):
    """Where spans go."""

    OFF = "off"
    FILE = "file"
    OTLP = "otlp"


class TelemetryConfig(Section):
    """Logs and traces."""

    log_format: LogFormat = Field(
        LogFormat.TEXT, description="`text`, or `json`: an object a line, with fields."
    )
    traces: Traces = Field(
        Traces.OFF,
        description="Spans of requests that ask for a trace: `off`, to a `file`, or by `otlp`.",
    )
    traces_dir: str | None = Field(None, description="Folder of `traces: file`.")
    otlp_endpoint: str | None = Field(
        None, description="URL of `traces: otlp`, such as `http://collector:4318/v1/traces`."
    )

    @model_validator(mode="after")
    def _has_a_place(self) -> TelemetryConfig:
        needed = {Traces.FILE: "traces_dir", Traces.OTLP: "otlp_endpoint"}.get(self.traces)
        if needed is not None and getattr(self, needed) is None:
            raise PydanticCustomError(
                "no_place",
                "traces: {kind} needs {key}",
                {"kind": self.traces.value, "key": needed},
            )
        return self
