"""Functions, their calls and their answers as plain text, for chat templates that know none.

The form is that of Hermes, which many models were trained on and from which calls are parsed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

INTRODUCTION = """# Tools

You may call one or more functions to help with the user's request.

These are the signatures of the functions:
<tools>
{signatures}
</tools>

For each call, write a JSON object with the name of the function and its arguments, like this:
<tool_call>
{{"name": <name of the function>, "arguments": <JSON object of its arguments>}}
</tool_call>"""

PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "d",
        "parameters": {"type": "object", "properties": {"x": {"type": "string"}}},
    },
}
PROBE_MESSAGES: tuple[dict[str, Any], ...] = (
    {"role": "user", "content": "u"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "abcdefghi",  # some templates take ids of nine characters only
                "type": "function",
                "function": {"name": "probe_call", "arguments": '{"x": "probe_argument"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "probe_call", "content": "probe_answer"},
)
PROBE_SIGNS = ("probe_tool", "probe_call", "probe_argument", "probe_answer")
"""What must be seen of the probe, if a template knows functions."""


PROBE_SYSTEM: tuple[dict[str, Any], ...] = (
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
)


def uses_tools(messages: Sequence[Message], tools: Sequence[Message]) -> bool:
    """Whether a conversation has to do with functions at all."""
    return bool(tools) or any(
        message["role"] == "tool" or message.get("tool_calls") for message in messages
    )


def as_templates_expect(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages whose calls have arguments as objects, not as text: so templates print them."""
    found = []
    for message in messages:
        turn = dict(message)
        if turn.get("tool_calls"):
            turn["tool_calls"] = [_with_object(call) for call in turn["tool_calls"]]
        found.append(turn)
    return found


def as_plain_text(
    messages: Sequence[Message], tools: Sequence[Message], *, takes_system: bool = True
) -> list[dict[str, Any]]:
    """The same conversation with texts only, of system, user and assistant.

    takes_system: else the functions are introduced by the first turn there is.
    """
    turns: list[dict[str, Any]] = []
    is_answer = False
    for message in messages:
        was_answer, is_answer = is_answer, message["role"] == "tool"
        if is_answer:
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if was_answer:
                turns[-1]["content"] += "\n" + text
            else:
                turns.append({"role": "user", "content": text})
        else:
            calls = (_call_text(call) for call in message.get("tool_calls") or ())
            text = "\n".join(filter(None, (message["content"], *calls)))
            turns.append({"role": message["role"], "content": text})
    return _introduced(turns, tools, takes_system) if tools else turns


def _introduced(
    turns: list[dict[str, Any]], tools: Sequence[Message], takes_system: bool
) -> list[dict[str, Any]]:
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    introduction = INTRODUCTION.format(signatures=signatures)
    first, *others = turns
    if first["role"] == "system":
        return [{**first, "content": f"{first['content']}\n\n{introduction}"}, *others]
    if takes_system:
        return [{"role": "system", "content": introduction}, *turns]
    return [{**first, "content": f"{introduction}\n\n{first['content']}"}, *others]


def _call_text(call: Mapping[str, Any]) -> str:
    function = _with_object(call)["function"]
    told = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>\n{json.dumps(told, ensure_ascii=False)}\n</tool_call>"


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object; text that is none stays text."""
    function = dict(call["function"])
    try:
        arguments = json.loads(function["arguments"])
        if isinstance(arguments, dict):
            function["arguments"] = arguments
    except (ValueError, RecursionError):  # a client may send back what a model wrote wrong
        pass
    return {**call, "function": function}
