"""Every error a user can meet.

    S2DError
    ├── ConfigError        a config file is wrong; names the key or file           exit 2
    ├── ModelError         a checkpoint, wheel or tokenizer is wrong               exit 2
    ├── DataError          a file of prompts or a corpus is wrong; names the file  exit 2
    ├── RunError           the machine or another run is in the way (port, disk)   exit 2
    ├── ClusterError       a Kubernetes cluster is missing, refuses, or is not ready  exit 2
    └── RequestError       one HTTP request cannot be served                       400
        ├── UnknownModel       no target of that name                              404
        ├── BodyTooLarge       the body is over http.max_body_bytes                413
        └── Unavailable        no replica can take it now; try again               503

Errors are built from plain strings and integers, so they pickle and can cross an actor.
"""

from __future__ import annotations

from typing import Any


class S2DError(Exception):
    """Base of all errors that are told to a user in one line, without a stack trace."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(S2DError):
    """A configuration file is wrong. The message names the key or the file and the fix."""


class ModelError(S2DError):
    """A model source, checkpoint or tokenizer cannot be used. The message names it."""


class DataError(S2DError):
    """Prompts or a corpus cannot be used. The message names the file, and the line if any."""


class RunError(S2DError):
    """The machine or another run stands in the way: a taken port, a full disk, a second start."""


class ClusterError(S2DError):
    """A Kubernetes cluster cannot be reached, refuses something, or does not get ready."""


class RequestError(S2DError):
    """One HTTP request is refused. `param` names the field, `code` is stable for programs."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code

    def __reduce__(self) -> tuple[Any, tuple[str, str | None, str | None]]:
        return type(self), (self.message, self.param, self.code)


class UnknownModel(RequestError):
    """No target of that name is deployed."""

    status = 404


class BodyTooLarge(RequestError):
    """The request body is larger than `http.max_body_bytes`."""

    status = 413


class Unavailable(RequestError):
    """No replica can take the request now; the client may try again."""

    status = 503
    type = "service_unavailable_error"
