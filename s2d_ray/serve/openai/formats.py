"""Schemas that the output must keep: `response_format`, and the arguments of forced tool calls."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from s2d_ray.core.params import JsonFormat
from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.body import Body, branch

MAX_SCHEMA_CHARS = 2**16
MAX_SCHEMA_DEPTH = 64
MAX_TOOLS = 128

FunctionName = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]


class TextFormat(Body):
    """Any text."""

    type: Literal["text"] = Field(description="Any text.")


class ObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"] = Field(description="A JSON object.")


class NamedSchema(Body):
    """A JSON schema. It is kept with and without `strict`."""

    model_config = ConfigDict(validate_by_alias=True)

    name: FunctionName = Field(description="A name for it.")
    description: str | None = Field(None, description="What it is for; not shown to the model.")
    json_schema: dict[str, Any] = Field(alias="schema", description="A JSON schema.")
    strict: bool | None = Field(None, description="Without effect: the schema is always kept.")


class SchemaFormat(Body):
    """JSON that a schema allows."""

    type: Literal["json_schema"] = Field(description="By a schema.")
    json_schema: NamedSchema = Field(description="The schema.")


class UnknownFormat(Body):
    """Takes formats of no known type, to name the type."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"not": {}})

    type: Literal["text", "json_object", "json_schema"]


_TEXT, _OBJECT, _SCHEMA, _OTHER = map(branch, ("text", "object", "schema", "other"))
_BRANCHES = {"text": _TEXT, "json_object": _OBJECT, "json_schema": _SCHEMA}


def _branch_of(value: object) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return _BRANCHES.get(kind, _OTHER) if isinstance(kind, str) else _OTHER


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag(_TEXT)]
    | Annotated[ObjectFormat, Tag(_OBJECT)]
    | Annotated[SchemaFormat, Tag(_SCHEMA)]
    | Annotated[UnknownFormat, Tag(_OTHER)],
    Discriminator(_branch_of),
]


class Function(Body):
    """A function that the model may call; `parameters` is a JSON schema of an object."""

    name: FunctionName = Field(description="By which it is called.")
    description: Annotated[str, Field(max_length=2**16)] | None = Field(
        None, description="What it does, shown to the model."
    )
    parameters: dict[str, Any] | None = Field(None, description="JSON schema of its arguments.")
    strict: bool | None = Field(
        None,
        description="Without effect: forced calls are held to their schema anyway.",
    )

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """A schema of its arguments, always of an object."""
        return {"type": "object"} | (self.parameters or {})


class Tool(Body):
    """One tool; only functions are known."""

    type: Literal["function"] = Field(description="Only functions.")
    function: Function = Field(description="The function.")

    def plain(self) -> dict[str, Any]:
        """The tool as chat templates know it."""
        return self.model_dump(exclude_none=True)


class ChosenFunction(Body):
    """The function that must be called."""

    name: FunctionName = Field(description="Of an offered function.")


class NamedChoice(Body):
    """One function that must be called."""

    type: Literal["function"] = Field(description="Only functions.")
    function: ChosenFunction = Field(description="Which one.")


def json_format(response_format: Any) -> JsonFormat | None:
    """What the engine must keep to, None for any text. Raises RequestError for a bad schema."""
    if isinstance(response_format, SchemaFormat):
        schema = response_format.json_schema.json_schema
        return JsonFormat(schema_text(schema, "response_format.json_schema.schema"))
    return JsonFormat() if isinstance(response_format, ObjectFormat) else None


def check_tools(tools: Sequence[Tool]) -> None:
    """Raise RequestError for a schema that is too large, or two tools of one name."""
    names: set[str] = set()
    for index, tool in enumerate(tools):
        path = f"tools.{index}.function"
        if tool.function.name in names:
            raise RequestError(f"{path}.name: given twice", f"{path}.name")
        names.add(tool.function.name)
        schema = tool.function.schema_of_arguments
        schema_text(schema, f"{path}.parameters")
        if schema["type"] != "object":
            field = f"{path}.parameters.type"
            raise RequestError(f'{field}: arguments are an object; send "object"', field)


def arguments_format(function: Function) -> JsonFormat:
    """The output is the arguments of this function."""
    return JsonFormat(_dump(function.schema_of_arguments))


def calls_format(tools: Sequence[Tool]) -> JsonFormat:
    """The output is one call of one of the tools: its name, then its arguments."""
    definitions, calls = {}, []
    for index, tool in enumerate(tools):
        place = f"tool{index}"
        definitions[place] = _moved(tool.function.schema_of_arguments, f"#/$defs/{place}")
        calls.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool.function.name},
                    "arguments": {"$ref": f"#/$defs/{place}"},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    return JsonFormat(_dump({"anyOf": calls, "$defs": definitions}))


def schema_text(schema: dict[str, Any], path: str) -> str:
    """A schema as JSON text. Raises RequestError naming `path` if it is too large or no JSON."""
    if _depth(schema) > MAX_SCHEMA_DEPTH:
        raise RequestError(f"{path}: nested deeper than {MAX_SCHEMA_DEPTH}", path)
    try:
        text = _dump(schema)
    except ValueError as error:  # a number that JSON has not, or of thousands of digits
        raise RequestError(f"{path}: {error}", path) from None
    if len(text) > MAX_SCHEMA_CHARS:
        raise RequestError(f"{path}: longer than {MAX_SCHEMA_CHARS} characters", path)
    return text


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to its own root point to `place` instead."""
    if isinstance(schema, dict):
        return {
            key: place + value[1:]
            if key == "$ref" and isinstance(value, str) and value.startswith("#")
            else _moved(value, place)
            for key, value in schema.items()
        }
    return [_moved(item, place) for item in schema] if isinstance(schema, list) else schema


def _depth(tree: Any) -> int:
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return 1 + max(map(_depth, children), default=0)


def _dump(schema: Any) -> str:
    return json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
