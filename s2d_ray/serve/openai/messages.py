"""The turns of a chat, by role."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from s2d_ray.serve.openai.body import MANY, MAX_PARTS, ONE, Body, Name, branch, one_or_many

_INPUT, _ASSISTANT, _TOOL, _OTHER = map(branch, ("input", "assistant", "tool", "other"))
_BRANCHES = {"assistant": _ASSISTANT, "tool": _TOOL} | dict.fromkeys(
    ("system", "developer", "user"), _INPUT
)


class TextPart(Body):
    """One text part of a message; no other kind of part is supported."""

    type: Literal["text"] = Field(description="Only text.")
    text: str = Field(description="One paragraph of the message.")


Content = Annotated[
    Annotated[str, Tag(ONE)]
    | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS), Tag(MANY)],
    one_or_many,
]


def _joined(content: str | list[TextPart] | None) -> str | None:
    """Parts are paragraphs."""
    if isinstance(content, list):
        return "\n".join(part.text for part in content)
    return content


class _Turn(Body):
    """What all turns have. The null fields are what OpenAI's client sends back of a reply."""

    refusal: None = Field(None, description="Null; clients send it back.")
    annotations: None = Field(None, description="Null; clients send it back.")
    audio: None = Field(None, description="Null; clients send it back.")
    function_call: None = Field(None, description="Null; clients send it back.")


class InputTurn(_Turn):
    """What system or user say. `developer` is `system` by a newer name."""

    role: Literal["system", "developer", "user"] = Field(description="Who speaks.")
    content: Content = Field(description="What is said.")
    tool_calls: None = Field(None, description="Null; clients send it back.")

    def plain(self) -> dict[str, Any]:
        """The turn as chat templates know it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": _joined(self.content)}


class CalledFunction(Body):
    """The function of a call; `arguments` is JSON text, as the model wrote it."""

    name: Name = Field(description="Of the function.")
    arguments: str = Field(description="JSON text.")


class ToolCall(Body):
    """One call that the assistant made."""

    id: Name = Field(description="By which the answer names it.")
    type: Literal["function"] = Field(description="Only functions.")
    function: CalledFunction = Field(description="Which function, and how.")


class AssistantTurn(_Turn):
    """What the assistant said, or called."""

    role: Literal["assistant"] = Field(description="The model.")
    content: Content | None = Field(None, description="What it said; null only beside calls.")
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = Field(
        None, description="What it called."
    )

    def plain(self) -> dict[str, Any]:
        """The turn as chat templates know it."""
        turn: dict[str, Any] = {"role": "assistant", "content": _joined(self.content)}
        if self.tool_calls:
            turn["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        return turn


class ToolTurn(_Turn):
    """What a function answered."""

    role: Literal["tool"] = Field(description="A function.")
    content: Content = Field(description="Its answer.")
    tool_call_id: Name = Field(description="Of the call that it answers.")
    name: Name | None = Field(None, description="Of the function.")

    def plain(self) -> dict[str, Any]:
        """The turn as chat templates know it."""
        turn = {"role": "tool", "content": _joined(self.content), "tool_call_id": self.tool_call_id}
        return turn if self.name is None else turn | {"name": self.name}


class UnknownTurn(Body):
    """Takes turns of no known role, to name the role rather than all fields."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"not": {}})

    role: Literal["system", "developer", "user", "assistant", "tool"]


def _branch_of(value: object) -> str:
    role = value.get("role") if isinstance(value, dict) else "user"
    return _BRANCHES.get(role, _OTHER) if isinstance(role, str) else _OTHER


Turn = Annotated[
    Annotated[InputTurn, Tag(_INPUT)]
    | Annotated[AssistantTurn, Tag(_ASSISTANT)]
    | Annotated[ToolTurn, Tag(_TOOL)]
    | Annotated[UnknownTurn, Tag(_OTHER)],
    Discriminator(_branch_of),
]
