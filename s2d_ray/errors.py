"""Every error a user can meet.

    S2DError
    ├── ConfigError        a config file is wrong; names the key or file           exit 2
    ├── ModelError         a checkpoint, wheel or tokenizer is wrong               exit 2
    ├── DataError          a file of prompts or a corpus is wrong; names the file  exit 2
    ├── RunError           the machine or another run is in the way (port, disk)   exit 2
    ├── ClusterError       a Kubernetes cluster is missing, refuses, or is not ready  exit 2
    └── RequestError       one HTTP request cannot be served                       400
        ├── Unauthorized       no key, or not a valid one                          401
        ├── Forbidden          the tenant of this key may not do this              403
        ├── UnknownModel       no target of that name                              404
        ├── UnknownKey         no API key of that id                               404
        ├── BodyTooLarge       the body is over http.max_body_bytes                413
        ├── RateLimited        the tenant has used up a limit; try again later     429
        └── Unavailable        no replica can take it now; try again               503
            └── Overloaded         the service is full; try again later            503

An error that is no RequestError and reaches HTTP after all is told as a 500 without internals.
Errors are built from plain strings and mappings of them, so they pickle and can cross an actor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class S2DError(Exception):
    """Base of all errors that are told to a user in one line, without a stack trace."""

    status = 500
    type = "server_error"

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
    """One HTTP request is refused. `param` names the field, `code` is stable for programs.

    headers: of the answer, such as `retry-after`.
    """

    status = 400
    type = "invalid_request_error"

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.param, self.code, self.headers)


class Unauthorized(RequestError):
    """The request carries no key, or none that is valid now."""

    status = 401
    type = "authentication_error"


class Forbidden(RequestError):
    """The key is valid, but its tenant may not use this target, mode or route."""

    status = 403
    type = "permission_error"


class UnknownModel(RequestError):
    """No target of that name is deployed."""

    status = 404


class UnknownKey(RequestError):
    """No API key of that id is in the tenants file."""

    status = 404


class BodyTooLarge(RequestError):
    """The request body is larger than `http.max_body_bytes`."""

    status = 413


class RateLimited(RequestError):
    """The tenant has used up one of its limits; `retry-after` says when to come back."""

    status = 429
    type = "rate_limit_error"


class Unavailable(RequestError):
    """No replica can take the request now; the client may try again."""

    status = 503
    type = "service_unavailable_error"


class Overloaded(Unavailable):
    """The service as a whole is full, whoever asks."""
