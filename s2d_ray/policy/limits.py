"""What a tenant may use, what is left of it, and why a request is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from s2d_ray.errors import Forbidden, Overloaded, RateLimited, RequestError

SHORTEST_RETRY_S = 1.0


@dataclass(frozen=True)
class Limits:
    """Limits of one tenant; None: no limit.

    max_running: texts written at the same time (each choice of `n` is one). max_waiting: requests
    queued beyond them. band: a lower one goes first, always. weight: share among equals.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_running: int = 16
    max_waiting: int = 64
    band: int = 1
    weight: float = 1.0


@dataclass(frozen=True)
class Allowance:
    """State of one bucket, for the headers `x-ratelimit-*`. kind: "requests" or "tokens"."""

    kind: str
    limit: int
    remaining: int
    reset_s: float

    def headers(self) -> dict[str, str]:
        """As OpenAI names them."""
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.limit),
            f"x-ratelimit-remaining-{self.kind}": str(self.remaining),
            f"x-ratelimit-reset-{self.kind}": f"{math.ceil(self.reset_s * 1000)}ms",
        }


def ratelimit_headers(allowances: Sequence[Allowance]) -> dict[str, str]:
    """The headers of all buckets of a tenant."""
    return {name: text for allowance in allowances for name, text in allowance.headers().items()}


class Reason(StrEnum):
    """Why a request is refused; told in the header `x-s2d-reason` and as the error's `code`."""

    UNKNOWN_TENANT = "unknown_tenant"
    LARGER_THAN_LIMIT = "larger_than_limit"
    TOO_MANY_TEXTS = "too_many_texts"
    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    QUEUE_FULL = "queue_full"
    SERVICE_FULL = "service_full"
    DEADLINE = "deadline"
    LEDGER_AWAY = "ledger_away"


_TEXTS = {
    Reason.UNKNOWN_TENANT: "The tenant of this key was removed",
    Reason.LARGER_THAN_LIMIT: (
        "Prompt and max_tokens may take more tokens than this tenant has in a minute; "
        "lower max_tokens"
    ),
    Reason.TOO_MANY_TEXTS: "More texts at once than this tenant may have written; lower n",
    Reason.REQUESTS_PER_MINUTE: "This tenant has used up its requests per minute",
    Reason.TOKENS_PER_MINUTE: "This tenant has used up its tokens per minute",
    Reason.QUEUE_FULL: "This tenant has as many requests waiting as it may have",
    Reason.SERVICE_FULL: "The service has as many open requests as it takes",
    Reason.DEADLINE: "No slot became free before the request's deadline",
    Reason.LEDGER_AWAY: "The ledger that admits requests does not answer",
}
_FIELDS = {Reason.LARGER_THAN_LIMIT: "max_tokens", Reason.TOO_MANY_TEXTS: "n"}
_KINDS: dict[Reason, type[RequestError]] = {
    # A client that tries these again would never succeed, so they are its own mistakes.
    Reason.LARGER_THAN_LIMIT: RequestError,
    Reason.TOO_MANY_TEXTS: RequestError,
    Reason.UNKNOWN_TENANT: Forbidden,
    Reason.REQUESTS_PER_MINUTE: RateLimited,
    Reason.TOKENS_PER_MINUTE: RateLimited,
    Reason.QUEUE_FULL: RateLimited,
    Reason.SERVICE_FULL: Overloaded,
    Reason.DEADLINE: Overloaded,
    Reason.LEDGER_AWAY: Overloaded,
}


def status_of(reason: Reason) -> int:
    """The HTTP status of a refusal."""
    return _KINDS[reason].status


@dataclass(frozen=True)
class Refusal:
    """A request that was not admitted, and when another try may help."""

    id: str
    reason: Reason
    retry_after_s: float = SHORTEST_RETRY_S
    allowances: tuple[Allowance, ...] = ()

    def error(self) -> RequestError:
        """The same as an error of the API."""
        headers = ratelimit_headers(self.allowances)
        kind = _KINDS[self.reason]
        if issubclass(kind, RateLimited | Overloaded):
            headers["retry-after"] = str(math.ceil(max(SHORTEST_RETRY_S, self.retry_after_s)))
        return kind(_TEXTS[self.reason], _FIELDS.get(self.reason), self.reason.value, headers)
