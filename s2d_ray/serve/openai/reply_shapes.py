"""Shapes of replies with text, for the published OpenAPI document."""

from __future__ import annotations

from typing import Literal

from s2d_ray.serve.openai.shapes import Count, PlanShape, Shape

ChatEnd = Literal["stop", "length", "tool_calls"]
TextEnd = Literal["stop", "length"]


class UsageDetails(Shape):
    """What became of the drafted tokens."""

    accepted_prediction_tokens: Count
    rejected_prediction_tokens: Count


class PromptDetails(Shape):
    """What became of the prompt's tokens."""

    cached_tokens: Count


class UsageShape(Shape):
    """OpenAI's usage."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptDetails
    completion_tokens_details: UsageDetails


class TracedToken(Shape):
    """Who wrote one token."""

    token_id: int
    text: str
    drafted_by: int | None
    confidence: float | None
    rank: int | None
    round: int


class Speculation(Shape):
    """The field `s2d` of a whole reply."""

    seed: int
    mode: Literal["auto", "off", "force"]
    plan: PlanShape
    plan_reason: str = ""
    rounds: Count
    mean_accepted_length: float
    accepted_by_submodel: dict[str, Count]
    accepted_by_rank: dict[str, Count]
    draft_misses: Count
    tokens: list[TracedToken] = []


class SpeculationPart(Shape):
    """Parts of it, in the chunks of a stream."""

    seed: int | None = None
    mode: Literal["auto", "off", "force"] | None = None
    plan: PlanShape | None = None
    plan_reason: str | None = None
    rounds: Count | None = None
    mean_accepted_length: float | None = None
    accepted_by_submodel: dict[str, Count] | None = None
    accepted_by_rank: dict[str, Count] | None = None
    draft_misses: Count | None = None
    tokens: list[TracedToken] = []


class SpecDecode(Shape):
    """vLLM's counts of one text."""

    mean_acceptance_length: float
    draft_acceptance_rate: float
    acceptance_histogram: list[Count]
    acceptance_histogram_by_draft_length: dict[str, list[Count]]
    num_spec_steps: Count
    num_accepted_draft_tokens: Count
    num_draft_tokens: Count
    num_spec_tokens: Count


class Metrics(Shape):
    """Counts as vLLM publishes them."""

    speculative_decoding: SpecDecode


class ToldFunction(Shape):
    """A called function; `arguments` is JSON text."""

    name: str
    arguments: str


class ToldCall(Shape):
    """One call."""

    id: str
    type: Literal["function"]
    function: ToldFunction


class FunctionPart(Shape):
    """A call, or more of its arguments."""

    name: str | None = None
    arguments: str


class ToolCallPart(Shape):
    """One call in a stream."""

    index: Count
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionPart


class Alternative(Shape):
    """A token that might have stood here."""

    token: str
    logprob: float
    bytes: list[int]


class TokenTold(Alternative):
    """A token of the text."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Shape):
    """Log-probabilities of a message."""

    content: list[TokenTold]
    refusal: None


class TextLogprobs(Shape):
    """Log-probabilities of a text, in lists side by side."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[Count]


class Message(Shape):
    """What the assistant said."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[ToldCall] = []


class MessagePart(Shape):
    """What it says now."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolCallPart] = []


class ChatChoice(Shape):
    """One answer to a chat."""

    index: Count
    message: Message
    finish_reason: ChatEnd
    logprobs: ChatLogprobs | None


class ChatChoicePart(Shape):
    """A part of one answer."""

    index: Count
    delta: MessagePart
    finish_reason: ChatEnd | None
    logprobs: ChatLogprobs | None = None


class TextChoice(Shape):
    """One continued text."""

    index: Count
    text: str
    logprobs: TextLogprobs | None
    finish_reason: TextEnd


class TextChoicePart(TextChoice):
    """A part of it."""

    finish_reason: TextEnd | None  # type: ignore[assignment]  # null until the text ends


class _Head(Shape):
    """What every reply begins with."""

    id: str
    created: int
    model: str


class _Whole(_Head):
    """What every whole reply ends with."""

    usage: UsageShape
    s2d: Speculation
    metrics: Metrics | None = None


class _Chunk(_Head):
    """What a chunk may carry beside text."""

    usage: UsageShape | None = None
    s2d: SpeculationPart | None = None
    metrics: Metrics | None = None


class ChatCompletion(_Whole):
    """A reply to a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class ChatCompletionChunk(_Chunk):
    """The JSON of one server-sent event of a streamed reply."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChoicePart]


class Completion(_Whole):
    """Continued texts."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class CompletionChunk(_Chunk):
    """The JSON of one server-sent event of streamed texts."""

    object: Literal["text_completion"]
    choices: list[TextChoicePart]
