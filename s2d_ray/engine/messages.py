"""Requests on their way to a target replica, and the events that come back. Plain data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from s2d_ray.core.cascade import Plan


class Mode(StrEnum):
    """Speculation of one request: the configured plan, none, or every round at any cost."""

    AUTO = "auto"
    OFF = "off"
    FORCE = "force"


class FinishReason(StrEnum):
    """Why a text ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class SamplingParams:
    """How the target draws its tokens. `top_k` 0 and `top_p` 1 mean "off"."""

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class GenerateRequest:
    """One chat completion, checked, on its way to a target replica.

    request_id is unique among all requests: it names the sequence and its draft session.
    """

    request_id: str
    messages: tuple[dict[str, str], ...]
    sampling: SamplingParams
    plan: Plan
    mode: Mode = Mode.AUTO
    trace: bool = False


@dataclass(frozen=True)
class TokenTrace:
    """Who wrote one token of the text.

    drafted_by: layers of the sub-model whose guess was accepted, None if the target wrote it.
    confidence: the draft's confidence in an accepted guess, None if the target wrote it.
    text: what became final with this token; the texts of all tokens join to the whole text, but for
        what was held back to the very end.
    round: the round that committed the token, from 1; 0 for the first, which the prefill wrote.
    """

    token_id: int
    text: str
    drafted_by: int | None
    confidence: float | None
    round: int


@dataclass(frozen=True)
class Usage:
    """Counts of one request. Tokens behind its end are neither completed nor accepted."""

    prompt_tokens: int
    completion_tokens: int = 0
    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_submodel: dict[int, int] = field(default_factory=dict)
    draft_misses: int = 0


@dataclass(frozen=True)
class Started:
    """The first event of an admitted request."""

    prompt_tokens: int


@dataclass(frozen=True)
class Delta:
    """Text that is final: whole characters, free of stop strings. `tokens` only with trace."""

    text: str
    tokens: tuple[TokenTrace, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The last event of a request that was served."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True)
class Refused:
    """The only event of a request that was not served: the fields of a `RequestError`."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None


Event = Started | Delta | Finished | Refused
