"""Requests on their way to a target replica, and the events that come back. Plain data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams


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
class ChatPrompt:
    """A conversation for the target's chat template, and the functions it may call.

    messages, tools: JSON objects in OpenAI's form, `content` always a string or null.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class TextPrompt:
    """A text to be continued as it stands, after the tokenizer's own special tokens."""

    text: str


@dataclass(frozen=True)
class TokenPrompt:
    """Token ids to be continued as they stand."""

    ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True)
class Tag:
    """Whom a text is for, in logs and traces; nothing depends on it.

    request_id: of the HTTP request, which may ask for many texts. tenant: "-" where nobody is asked
    for a key. attempt: replicas that this text was tried on before. traceparent: of the span that
    it is written in, as W3C's header has it; empty: it is not traced.
    """

    request_id: str = ""
    tenant: str = "-"
    attempt: int = 0
    traceparent: str = ""


@dataclass(frozen=True)
class GenerateRequest:
    """One text to be written, checked, on its way to a target replica.

    request_id is unique among all requests: it names the sequence and its draft session.
    cache_salt: only texts of the same salt share what was computed for their common beginning.
    task: the class of the plan file whose plans it may follow; none: `plan` is the operator's, and
    stays. fixed: fields of the plan that the client set, which stay too.
    resume: a text to be gone on with; the prompt is then what the lost replica read of it.
    """

    request_id: str
    prompt: Prompt
    sampling: SamplingParams
    plan: Plan
    mode: Mode = Mode.AUTO
    trace: bool = False
    cache_salt: str = ""
    task: str = ""
    fixed: frozenset[str] = frozenset()
    resume: Resume | None = None
    tag: Tag = Tag()

    @property
    def insists(self) -> bool:
        """Whether its client wants guesses whatever they are worth."""
        wants = "max_proposal" in self.fixed and self.plan.max_proposal > 0
        return self.mode is Mode.FORCE or (self.mode is Mode.AUTO and wants)

    @property
    def prompt_field(self) -> str:
        """The field of the API that holds the prompt, for refusals."""
        return "messages" if isinstance(self.prompt, ChatPrompt) else "prompt"

    @property
    def shows_tokens(self) -> bool:
        """Whether the client is told of single tokens."""
        return self.trace or self.sampling.logprobs is not None


@dataclass(frozen=True)
class TokenLogprob:
    """One token, the bytes it stands for, and its log-probability in the target's own law.

    That law is the softmax of the target's raw scores, before temperature and all controls.
    """

    token_id: int
    bytes: bytes
    logprob: float


@dataclass(frozen=True)
class TokenTrace:
    """Who wrote one token of the text.

    drafted_by: layers of the sub-model whose guess was accepted, None if the target wrote it.
    confidence, rank: the draft's confidence in an accepted guess, and its place among the guesses
        of its node, 0 being the likeliest; None if the target wrote it.
    text: what became final with this token; the texts of all tokens join to the whole text, but for
        what was held back to the very end.
    round: the round that committed the token, from 1; 0 for the first, which the prefill wrote.
    logprob, alternatives: only with `SamplingParams.logprobs`; alternatives likeliest first.
    ends: whether it is an end token or a stop token, which is no part of the text.
    """

    token_id: int
    text: str
    drafted_by: int | None
    confidence: float | None
    round: int
    rank: int | None = None
    logprob: TokenLogprob | None = None
    alternatives: tuple[TokenLogprob, ...] = ()
    ends: bool = False


@dataclass(frozen=True)
class RoundCount:
    """How many rounds had so many drafted levels, of which so many were accepted."""

    drafted: int
    accepted: int
    rounds: int


@dataclass(frozen=True)
class Usage:
    """Counts of one request. Tokens behind its end are neither completed nor accepted.

    cached_tokens: of the prompt, copied from a text computed before.
    drafted_tokens: nodes proposed, all guesses of a tree counted.
    accepted_by_rank: by a guess's place among those of its node, 0 being the likeliest.
    rounds_by_length: rounds by depth of their proposal and accepted length; they sum to `rounds`.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_submodel: dict[int, int] = field(default_factory=dict)
    draft_misses: int = 0
    rounds_by_length: tuple[RoundCount, ...] = ()
    accepted_by_rank: dict[int, int] = field(default_factory=dict)
    cached_tokens: int = 0


@dataclass(frozen=True)
class Resume:
    """What was told of a text whose replica was lost; another one goes on behind it.

    fingerprint: of the replica that began the text, see `models.fingerprint`. token_ids: all that
    were written; num_chars: of the text that was told with them; usage: as of then.
    """

    fingerprint: str
    token_ids: tuple[int, ...]
    num_chars: int
    usage: Usage


OTHER_FINGERPRINT = "other_fingerprint"
"""The code by which a replica refuses a text that it would go on with differently."""

HANDED_OVER = "handed_over"
"""The code by which a replica gives up a text that another one can go on with."""


@dataclass(frozen=True)
class Started:
    """The first event of an admitted request.

    prompt_ids, fingerprint: by which the text can be resumed; none from an engine that cannot.
    """

    prompt_tokens: int
    prompt_ids: tuple[int, ...] = ()
    fingerprint: str = ""


Round = tuple[int, int, int, tuple[tuple[int, int], ...]]
"""What a round adds to the counts: guesses, depth of the proposal, times that the draft was silent,
and (layers of the sub-model, rank) of each accepted guess.

A plain tuple, since most deltas carry one: an object of a class takes longer than the delta itself.
"""


@dataclass(frozen=True)
class Delta:
    """Text that is final: whole characters, free of stop strings.

    tokens: only if the request shows tokens. By the others a text can be resumed; they tell what
    is new since the delta before. token_ids: none from an engine that cannot resume.
    cached_tokens: see `Usage`, told once.
    """

    text: str
    tokens: tuple[TokenTrace, ...] = ()
    token_ids: tuple[int, ...] = ()
    rounds: tuple[Round, ...] = ()
    cached_tokens: int = 0


@dataclass(frozen=True)
class Finished:
    """The last event of a request that was served.

    plan, why: the plan that it was written by in the end, and the reason for it; None from an
    engine that has no plans.
    """

    reason: FinishReason
    usage: Usage
    plan: Plan | None = None
    why: str = ""


@dataclass(frozen=True)
class Refused:
    """The only event of a request that was not served: the fields of a `RequestError`."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None


NO_MEMORY = Refused(503, "the replica's memory does not suffice now", code="out_of_memory")
"""Of a text that cannot be served, even alone."""


@dataclass(frozen=True)
class Tokens:
    """A prompt as the target reads it. texts: the bytes of each id, decoded one by one."""

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    max_context: int


Event = Started | Delta | Finished | Refused
