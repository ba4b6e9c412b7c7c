"""OpenAI's chat completion as this service speaks it: request checking and reply shapes.

A field that could change the text is honoured or refused by name, never ignored. Pure: no I/O.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from s2d_ray.config import MAX_PROPOSAL, MAX_TREE_WIDTH, Probability
from s2d_ray.core.cascade import Plan
from s2d_ray.core.hashing import SEED_BITS
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.messages import (
    ChatPrompt,
    Delta,
    Finished,
    GenerateRequest,
    Mode,
    TokenTrace,
    Usage,
)
from s2d_ray.errors import RequestError

MAX_OUTPUT_TOKENS = 2**20
MAX_MESSAGES = 2_048

Count = Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)]
Label = Annotated[str, Field(max_length=512)]
Zero = Annotated[float, Field(ge=0, le=0)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]

_ONE, _MANY = "<one>", "<many>"
_one_or_many = Discriminator(lambda value: _MANY if isinstance(value, list) else _ONE)


class _Body(BaseModel):
    """Base of all request parts: nothing is coerced, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class TextPart(_Body):
    """One text part of a message; no other kind of part is supported."""

    type: Literal["text"]
    text: str


Content = Annotated[
    Annotated[str, Tag(_ONE)]
    | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES), Tag(_MANY)],
    _one_or_many,
]
Stop = Annotated[
    Annotated[StopString, Tag(_ONE)] | Annotated[list[StopString], Field(max_length=4), Tag(_MANY)],
    _one_or_many,
]


class Message(_Body):
    """One turn of the chat. The null fields are what OpenAI's client sends back of a reply."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    def plain(self) -> dict[str, Any]:
        """The turn as chat templates know it: `developer` is `system`, parts are paragraphs."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        return {"role": role, "content": "\n".join(part.text for part in self.content)}


class StreamOptions(_Body):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class SpeculationOptions(_Body):
    """The body field `s2d`: speculation of this request. Nothing in it changes the text."""

    mode: Mode | None = None
    exit_thresholds: Annotated[list[Probability], Field(max_length=64)] | None = None
    stop_threshold: Probability | None = None
    max_proposal: Annotated[int, Field(ge=0, le=MAX_PROPOSAL)] | None = None
    tree_width: Annotated[int, Field(ge=1, le=MAX_TREE_WIDTH)] | None = None
    tree_depth: Annotated[int, Field(ge=1, le=MAX_PROPOSAL)] | None = None
    trace: bool | None = None

    def plan(self, default: Plan) -> Plan:
        """The default plan with the fields set here in their place."""
        given = self.model_dump(exclude={"mode", "trace"}, exclude_none=True)
        if "exit_thresholds" in given:
            given["exit_thresholds"] = tuple(given["exit_thresholds"])
        return replace(default, **given)


class ChatCompletionRequest(_Body):
    """The body of POST /v1/chat/completions. Null means absent."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**SEED_BITS)] | None = None
    stop: Stop | None = None
    s2d: SpeculationOptions | None = None

    # The rest is accepted only with values that cannot change the text.
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    logprobs: Literal[False] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    service_tier: Label | None = None
    store: bool | None = None
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] | None = None

    def to_generate(self, request_id: str, default: Plan) -> GenerateRequest:
        """The request as targets know it; the target's name is `model`.

        A missing seed is drawn here, before the first attempt, so that every retry has it.
        Raises: RequestError if two fields contradict each other.
        """
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed with stream: true", "stream_options")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise RequestError(
                "max_tokens and max_completion_tokens differ; send one of them", "max_tokens"
            )
        options = self.s2d or SpeculationOptions()
        sampling = SamplingParams(
            seed=secrets.randbits(SEED_BITS) if self.seed is None else self.seed,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            max_tokens=next(iter(limits), None),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
        )
        return GenerateRequest(
            request_id=request_id,
            prompt=ChatPrompt(tuple(message.plain() for message in self.messages)),
            sampling=sampling,
            plan=options.plan(default),
            mode=options.mode or Mode.AUTO,
            trace=bool(options.trace),
        )


def parse_request(body: bytes) -> ChatCompletionRequest:
    """Check a request body. Raises RequestError naming the first wrong field by dotted path."""
    try:
        return ChatCompletionRequest.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"] if part not in (_ONE, _MANY))
    if first["type"] == "json_invalid":
        return RequestError(f"The body is not valid JSON: {first['msg']}", code="invalid_json")
    if first["type"] == "extra_forbidden":
        return RequestError(
            f"{path}: unknown or unsupported field; leave it out", path, "unknown_parameter"
        )
    return RequestError(f"{path or 'body'}: {first['msg']}", path or None, first["type"])


def error_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def usage_body(usage: Usage) -> dict[str, Any]:
    """OpenAI's usage object; rejected predictions are drafted tokens that were not accepted."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "completion_tokens_details": {
            "accepted_prediction_tokens": usage.accepted_tokens,
            "rejected_prediction_tokens": usage.drafted_tokens - usage.accepted_tokens,
        },
    }


def totals_body(usage: Usage) -> dict[str, Any]:
    """How speculation went, for the `s2d` object of a finished reply."""
    accepted_per_round = usage.accepted_tokens / usage.rounds if usage.rounds else 0.0
    return {
        "rounds": usage.rounds,
        "mean_accepted_length": 1.0 + accepted_per_round,
        "accepted_by_submodel": {str(k): v for k, v in usage.accepted_by_submodel.items()},
        "draft_misses": usage.draft_misses,
    }


def _tokens_body(tokens: Iterable[TokenTrace]) -> list[dict[str, Any]]:
    shown = ("token_id", "text", "drafted_by", "confidence", "rank", "round")
    return [{name: getattr(token, name) for name in shown} for token in tokens]


class Reply:
    """The reply to one request, whole or in chunks. `created` in Unix seconds."""

    def __init__(
        self, request: GenerateRequest, model: str, created: int, *, include_usage: bool = False
    ) -> None:
        self._request = request
        self._include_usage = include_usage
        self._head = {"id": request.request_id, "created": created, "model": model}
        self._choices_of_speculation = {
            "seed": request.sampling.seed,
            "mode": request.mode.value,
            "plan": asdict(request.plan),
        }

    def whole(self, deltas: list[Delta], finished: Finished) -> dict[str, Any]:
        """A chat.completion: the same text as all chunks joined."""
        s2d = self._choices_of_speculation | totals_body(finished.usage)
        if self._request.trace:
            s2d["tokens"] = _tokens_body(token for delta in deltas for token in delta.tokens)
        message = {"role": "assistant", "content": "".join(delta.text for delta in deltas)}
        choice = {"index": 0, "message": message, "finish_reason": finished.reason.value}
        return self._head | {
            "object": "chat.completion",
            "choices": [choice | {"logprobs": None}],
            "usage": usage_body(finished.usage),
            "s2d": s2d,
        }

    def first(self) -> dict[str, Any]:
        """The chunk that opens a stream: the role, the seed, the mode and the plan."""
        delta = {"role": "assistant", "content": ""}
        return self._chunk(delta) | {"s2d": self._choices_of_speculation}

    def delta(self, event: Delta) -> dict[str, Any]:
        """One chunk of text, with who wrote it if the request asked for a trace."""
        chunk = self._chunk({"content": event.text})
        return chunk | {"s2d": {"tokens": _tokens_body(event.tokens)}} if event.tokens else chunk

    def last(self, finished: Finished) -> list[dict[str, Any]]:
        """The chunks that end a stream: the finish reason with totals, then usage if asked for."""
        end = self._chunk({}, finished.reason.value) | {"s2d": totals_body(finished.usage)}
        if not self._include_usage:
            return [end]
        return [end, self._chunk({}) | {"choices": [], "usage": usage_body(finished.usage)}]

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        chunk = self._head | {"object": "chat.completion.chunk", "choices": [choice]}
        return chunk | {"usage": None} if self._include_usage else chunk
