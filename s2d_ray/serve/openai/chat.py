"""The body of POST /v1/chat/completions, and what it asks of a target."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import JsonFormat
from s2d_ray.engine.messages import ChatPrompt, GenerateRequest
from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.body import MAX_PARTS, OBJECT, ONE, one_or_object
from s2d_ray.serve.openai.formats import (
    MAX_TOOLS,
    NamedChoice,
    ResponseFormat,
    Tool,
    arguments_format,
    calls_format,
    check_tools,
    json_format,
)
from s2d_ray.serve.openai.messages import AssistantTurn, Turn
from s2d_ray.serve.openai.sampling import Count, SamplingRequest
from s2d_ray.serve.openai.toolcalls import (
    AutoReader,
    NamedReader,
    PlainReader,
    Reader,
    RequiredReader,
)

MAX_ALTERNATIVES = 20

Messages = Annotated[list[Turn], Field(min_length=1, max_length=MAX_PARTS)]
Tools = Annotated[list[Tool], Field(max_length=MAX_TOOLS)]
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(ONE)] | Annotated[NamedChoice, Tag(OBJECT)],
    one_or_object,
]


class ChatCompletionRequest(SamplingRequest):
    """A chat to be answered. Null means absent."""

    messages: Messages
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None

    def requests(self, request_id: str, default: Plan) -> tuple[GenerateRequest, ...]:
        """One request for each choice, as targets know them; the target's name is `model`.

        A missing seed is drawn here, before the first attempt, so that every retry has it.
        Raises: RequestError if two fields contradict each other.
        """
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise RequestError(
                "max_tokens and max_completion_tokens differ; send one of them", "max_tokens"
            )
        max_tokens = next(iter(limits), None)
        self.check_shared(max_tokens)
        self._check_tools()
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs is only allowed with logprobs: true", "top_logprobs")
        sampling = self.sampling(
            max_tokens=max_tokens,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            format=self._format(),
        )
        prompt = chat_prompt(self.messages, self.offered_tools)
        return self.fan_out(request_id, [prompt], sampling, default)

    @property
    def offered_tools(self) -> list[Tool]:
        """The tools that the model is told of."""
        return [] if self.tool_choice == "none" else self.tools or []

    def reader(self) -> Reader:
        """A reader of one choice's text, which finds the calls in it."""
        names = frozenset(tool.function.name for tool in self.offered_tools)
        if isinstance(self.tool_choice, NamedChoice):
            return NamedReader(self.tool_choice.function.name)
        if self.tool_choice == "required":
            return RequiredReader(names)
        return AutoReader(names) if names else PlainReader()

    def _check_tools(self) -> None:
        check_tools(self.tools or ())
        if self.tool_choice not in (None, "none", "auto") and not self.tools:
            raise RequestError("tool_choice needs tools", "tool_choice")
        if isinstance(self.tool_choice, NamedChoice):
            name = self.tool_choice.function.name
            if all(tool.function.name != name for tool in self.tools or ()):
                field = "tool_choice.function.name"
                raise RequestError(f"{field}: there is no tool {name!r}", field)

    def _format(self) -> JsonFormat | None:
        """What the text must keep to. Raises RequestError where two fields ask for two things."""
        wanted = json_format(self.response_format)
        if wanted is not None and self.offered_tools:
            raise RequestError(
                "response_format leaves no room for calls; send tool_choice none with it",
                "response_format",
            )
        wanted = wanted or self._format_of_calls()
        if wanted is not None:
            for field, is_set in (("ignore_eos", self.ignore_eos), ("min_tokens", self.min_tokens)):
                if is_set:
                    raise RequestError(f"{field}: JSON ends where it is complete", field)
        return wanted

    def _format_of_calls(self) -> JsonFormat | None:
        if isinstance(self.tool_choice, NamedChoice):
            name = self.tool_choice.function.name
            tool = next(tool for tool in self.offered_tools if tool.function.name == name)
            return arguments_format(tool.function)
        return calls_format(self.offered_tools) if self.tool_choice == "required" else None


def chat_prompt(messages: list[Any], tools: list[Tool]) -> ChatPrompt:
    """A conversation as targets know it. Raises RequestError for a turn that says nothing."""
    for index, turn in enumerate(messages):
        if isinstance(turn, AssistantTurn) and turn.content is None and not turn.tool_calls:
            path = f"messages.{index}.content"
            raise RequestError(f"{path}: may be null only beside tool_calls", path)
    return ChatPrompt(
        tuple(turn.plain() for turn in messages), tuple(tool.plain() for tool in tools)
    )
