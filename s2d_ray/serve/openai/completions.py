"""POST /v1/completions: texts that are continued as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import (
    Delta,
    Finished,
    GenerateRequest,
    Prompt,
    TextPrompt,
    TokenPrompt,
    TokenTrace,
)
from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.body import branch
from s2d_ray.serve.openai.logprobs import LegacyLogprobs
from s2d_ray.serve.openai.reply import Form, Head, Reply
from s2d_ray.serve.openai.sampling import SamplingRequest, TokenId

MAX_PROMPTS = 64
MAX_TEXTS = 64
MAX_ALTERNATIVES = 5
MAX_PROMPT_TOKENS = 2**20
FORM = Form("text_completion", "text_completion")

PromptText = Annotated[str, Field(min_length=1)]
PromptIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_PROMPT_TOKENS)]
_TEXT, _TEXTS, _IDS, _LISTS = map(branch, ("text", "texts", "ids", "lists"))


def _branch_of(value: object) -> str:
    if not isinstance(value, list):
        return _TEXT
    first = value[0] if value else ""
    return _LISTS if isinstance(first, list) else _IDS if isinstance(first, int) else _TEXTS


AnyPrompt = Annotated[
    Annotated[PromptText, Tag(_TEXT)]
    | Annotated[list[PromptText], Field(min_length=1, max_length=MAX_PROMPTS), Tag(_TEXTS)]
    | Annotated[PromptIds, Tag(_IDS)]
    | Annotated[list[PromptIds], Field(min_length=1, max_length=MAX_PROMPTS), Tag(_LISTS)],
    Discriminator(_branch_of),
]


class CompletionRequest(SamplingRequest):
    """Prompts to be continued. Null means absent."""

    prompt: AnyPrompt
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None

    def requests(self, request_id: str, default: Plan) -> tuple[GenerateRequest, ...]:
        """One request for each choice of each prompt, as targets know them.

        Raises: RequestError if two fields contradict each other.
        """
        prompts = _prompts(self.prompt)
        if len(prompts) * (self.n or 1) > MAX_TEXTS:
            raise RequestError(f"n: n texts for each prompt are more than {MAX_TEXTS}", "n")
        self.check_shared(self.max_tokens, len(prompts))
        sampling = self.sampling(max_tokens=self.max_tokens, logprobs=self.logprobs, format=None)
        return self.fan_out(request_id, prompts, sampling, default)


def _prompts(given: Any) -> list[Prompt]:
    if not isinstance(given, list):
        return [one_prompt(given)]
    if isinstance(given[0], int):
        return [one_prompt(given)]
    return [one_prompt(prompt) for prompt in given]


def one_prompt(given: str | list[int]) -> Prompt:
    """One prompt as targets know it."""
    return TextPrompt(given) if isinstance(given, str) else TokenPrompt(tuple(given))


def completion_reply(
    body: CompletionRequest, head: Head, requests: Sequence[GenerateRequest]
) -> Reply:
    """The reply to a completion."""
    choices = [
        TextChoice(index, tells_logprobs=body.logprobs is not None)
        for index in range(len(requests))
    ]
    return Reply(
        FORM, head, requests, choices, num_choices=body.n or 1, include_usage=body.include_usage
    )


class TextChoice:
    """One text. See `reply.Choice`."""

    def __init__(self, index: int, *, tells_logprobs: bool) -> None:
        self._index = index
        self._text = ""
        self._tokens: list[TokenTrace] = []
        self._logprobs = LegacyLogprobs() if tells_logprobs else None
        self._finish_reason = ""

    def opening(self) -> list[dict[str, Any]]:
        """An empty text."""
        return [self._payload("")]

    def add(self, event: Delta) -> list[dict[str, Any]]:
        """Text; a token that is shown has a payload, also while its text is held."""
        self._text += event.text
        self._tokens += event.tokens
        if not event.text and not event.tokens:
            return []
        return [self._payload(event.text, event.tokens)]

    def end(self, event: Finished) -> list[dict[str, Any]]:
        """The finish reason."""
        self._finish_reason = event.reason.value
        return [self._payload("", finish_reason=self._finish_reason)]

    def whole(self) -> dict[str, Any]:
        """The text."""
        told = None if self._logprobs is None else LegacyLogprobs().add(self._tokens)
        return self._payload(self._text) | {"logprobs": told, "finish_reason": self._finish_reason}

    def _payload(
        self, text: str, tokens: Sequence[TokenTrace] = (), finish_reason: str | None = None
    ) -> dict[str, Any]:
        told = self._logprobs.add(tokens) if self._logprobs is not None and tokens else None
        return {
            "index": self._index,
            "text": text,
            "logprobs": told,
            "finish_reason": finish_reason,
        }
