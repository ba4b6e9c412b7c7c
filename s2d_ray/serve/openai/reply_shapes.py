"""Shapes of replies with text, for the published OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from s2d_ray.serve.openai.count_shapes import (
    Metrics,
    Speculation,
    SpeculationPart,
    UsageShape,
)
from s2d_ray.serve.openai.shapes import Count, Shape

ChatEnd = Literal["stop", "length", "tool_calls"]
TextEnd = Literal["stop", "length"]


class ToldFunction(Shape):
    """A called function; `arguments` is JSON text."""

    name: str = Field(description="Of an offered function.")
    arguments: str = Field(description="JSON text.")


class ToldCall(Shape):
    """One call."""

    id: str = Field(description="To be named by the answer to it.")
    type: Literal["function"] = Field(description="Always this.")
    function: ToldFunction = Field(description="Which function, and how.")


class FunctionPart(Shape):
    """A call, or more of its arguments."""

    name: str | None = Field(None, description="Only with the first part of a call.")
    arguments: str = Field(description="The next piece of JSON text.")


class ToolCallPart(Shape):
    """One call in a stream."""

    index: Count = Field(description="Which call of the message.")
    id: str | None = Field(None, description="Only with its first part.")
    type: Literal["function"] | None = Field(None, description="Only with its first part.")
    function: FunctionPart = Field(description="Which function, and how.")


class Alternative(Shape):
    """A token that might have stood here."""

    token: str = Field(description="What its bytes decode to by themselves.")
    logprob: float = Field(
        description="In the target's own law, before temperature and all controls."
    )
    bytes: list[int] = Field(description="Of its text.")


class TokenTold(Alternative):
    """A token of the text."""

    top_logprobs: list[Alternative] = Field(
        description="The likeliest tokens here, as many as were asked for."
    )


class ChatLogprobs(Shape):
    """Log-probabilities of a message."""

    content: list[TokenTold] = Field(
        description="Token after token; none for one that ends the text."
    )
    refusal: None = Field(description="Always null.")


class TextLogprobs(Shape):
    """Log-probabilities of a text, in lists side by side."""

    tokens: list[str] = Field(description="What the bytes of each decode to.")
    token_logprobs: list[float] = Field(description="Of each.")
    top_logprobs: list[dict[str, float]] = Field(description="The likeliest at each place.")
    text_offset: list[Count] = Field(description="Where each begins, in characters.")


class Message(Shape):
    """What the assistant said."""

    role: Literal["assistant"] = Field(description="Always this.")
    content: str | None = Field(
        description="The text; null where there are calls and nothing else."
    )
    tool_calls: list[ToldCall] = Field([], description="Functions that it calls.")


class MessagePart(Shape):
    """What it says now."""

    role: Literal["assistant"] | None = Field(None, description="Only with the first part.")
    content: str | None = Field(None, description="More of the text.")
    tool_calls: list[ToolCallPart] = Field([], description="More of the calls.")


class ChatChoice(Shape):
    """One answer to a chat."""

    index: Count = Field(description="Number of the choice.")
    message: Message = Field(description="The answer.")
    finish_reason: ChatEnd = Field(
        description="Why it ends: by itself or a stop string, by `max_tokens`, or in calls."
    )
    logprobs: ChatLogprobs | None = Field(description="If they were asked for.")


class ChatChoicePart(Shape):
    """A part of one answer."""

    index: Count = Field(description="Number of the choice.")
    delta: MessagePart = Field(description="What is new.")
    finish_reason: ChatEnd | None = Field(description="Why it ends; null before.")
    logprobs: ChatLogprobs | None = Field(
        None, description="Of the new tokens, if they were asked for."
    )


class TextChoice(Shape):
    """One continued text."""

    index: Count = Field(description="Number of the choice.")
    text: str = Field(description="What follows the prompt.")
    logprobs: TextLogprobs | None = Field(description="If they were asked for.")
    finish_reason: TextEnd = Field(
        description="Why it ends: by itself or a stop string, or by `max_tokens`."
    )


class TextChoicePart(TextChoice):
    """A part of it."""

    finish_reason: TextEnd | None = Field(  # type: ignore[assignment]
        description="Why it ends; null before."
    )


class _Head(Shape):
    """What every reply begins with."""

    id: str = Field(description="Of the request, as in `x-request-id`.")
    created: int = Field(description="In seconds since 1970.")
    model: str = Field(description="The target that answers.")


class _Whole(_Head):
    """What every whole reply ends with."""

    usage: UsageShape = Field(description="Counts of tokens.")
    s2d: Speculation = Field(description="How it was speculated for.")
    metrics: Metrics | None = Field(None, description="The same as vLLM has it.")


class _Chunk(_Head):
    """What a chunk may carry beside text."""

    usage: UsageShape | None = Field(None, description="With `include_usage`, in the last chunk.")
    s2d: SpeculationPart | None = Field(
        None, description="How it is speculated for, in the first and the last chunk."
    )
    metrics: Metrics | None = Field(None, description="With the chunk of usage.")


class ChatCompletion(_Whole):
    """A reply to a chat."""

    object: Literal["chat.completion"] = Field(description="Always this.")
    choices: list[ChatChoice] = Field(description="As many as were asked for.")


class ChatCompletionChunk(_Chunk):
    """The JSON of one server-sent event of a streamed reply."""

    object: Literal["chat.completion.chunk"] = Field(description="Always this.")
    choices: list[ChatChoicePart] = Field(
        description="Parts of one or more; none in a chunk of usage."
    )


class Completion(_Whole):
    """Continued texts."""

    object: Literal["text_completion"] = Field(description="Always this.")
    choices: list[TextChoice] = Field(description="As many as were asked for.")


class CompletionChunk(_Chunk):
    """The JSON of one server-sent event of streamed texts."""

    object: Literal["text_completion"] = Field(description="Always this.")
    choices: list[TextChoicePart] = Field(
        description="Parts of one or more; none in a chunk of usage."
    )
