"""docs/api-reference.md, made from the OpenAPI document; `make reference` writes it.

A test compares the page with what this module makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from s2d_ray.serve.gate import OPEN_PATHS
from s2d_ray.serve.openai.document import ANSWERS, ERRORS, REQUESTS, document
from s2d_ray.serve.openai.fields import Kind, rules_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "api-reference.md"
Schema = Mapping[str, Any]

HEAD = """\
# API reference

Every route, field and error, as `/openapi.json` of a running service has them. `make reference`
makes this page from that document. What fields are good for, and how they go together:
[api.md](api.md).

## Routes
"""
KEYS = """
With [tenants](tenants.md) all routes but {free} need an API key, and may also answer 401 and 403;
only then the routes for usage and keys exist. Errors have the shape [Error](#error).

| status | when |
|---|---|"""
ASKED = """
## What is asked

Null means absent. A field that is not named here is refused by its name."""
ANSWERED = """
## What is answered

*required* fields are always there."""
NULL = {"type": "null"}
PARTS = (("propertyNames", "names"), ("items", "each"), ("additionalProperties", "each"))


def reference() -> str:
    """The whole page."""
    whole = document(with_tenants=True)
    schemas: Schema = whole["components"]["schemas"]
    asked = _reached((model.__name__ for model in REQUESTS), schemas)
    answered = _reached((model.__name__ for model in ANSWERS), schemas)
    free = " and ".join(f"`{path}`" for path in sorted(OPEN_PATHS))
    lines = [HEAD, *_routes(whole["paths"]), KEYS.format(free=free)]
    lines += [f"| {status} | {text} |" for status, text in ERRORS.items()]
    lines.append(ASKED)
    for name in asked:
        lines += _section(name, schemas[name])
    lines.append(ANSWERED)
    for name in answered:
        if name not in asked:
            lines += _section(name, schemas[name])
    return "\n".join(lines) + "\n"


def _routes(paths: Schema) -> Iterator[str]:
    yield from ("| route | does | body | answer | errors |", "|---|---|---|---|---|")
    for path, methods in paths.items():
        for method, operation in methods.items():
            answers = dict(operation["responses"])
            cells = [
                f"`{method.upper()} {path}`",
                operation["summary"],
                _content(operation.get("requestBody", {})),
                _content(answers.pop("200")),
                ", ".join(sorted(answers.keys() - {"401", "403"})),
            ]
            yield f"| {' | '.join(cells)} |"


def _content(holder: Schema) -> str:
    """What a body or an answer may be, by media type."""
    said = []
    for media, kind in holder.get("content", {}).items():
        schema = kind["schema"]
        if media == "text/event-stream":
            event = re.sub(r"\b[A-Z][a-z]\w+", lambda name: _link(name[0]), schema["description"])
            said.append(f"events, {event.replace('[DONE]', '`[DONE]`')}")
        else:
            said.append(_type(schema) if "$ref" in schema else f"`{media}`")
    return "; ".join(said)


def _section(name: str, schema: Schema) -> Iterator[str]:
    """One shape: its fields, then those of a request without effect, and refused ones."""
    yield f"\n### {name}\n"
    yield schema.get("description", "").replace("\n", " ")
    endpoint = {model.__name__: each for model, each in REQUESTS.items()}.get(name)
    others = {kind: rules_of(endpoint, kind) if endpoint else {} for kind in Kind}
    left_out = {*others[Kind.IGNORED], *others[Kind.REFUSED]}
    fields = {
        key: each for key, each in schema.get("properties", {}).items() if key not in left_out
    }
    if fields:
        yield from ("", "| field | type | bounds | default | meaning |", "|---|---|---|---|---|")
    for key, field in fields.items():
        default = "*required*" if key in schema.get("required", ()) else _default(field)
        cells = [f"`{key}`", _type(field), _bounds(field), default, field.get("description", "")]
        yield f"| {' | '.join(cells)} |"
    if "enum" in schema:
        yield f"\n{_values(schema['enum'])}"
    if left_out:
        yield "\nWithout effect, and named in the header `x-s2d-ignored`:\n"
        yield from ("| field | why |", "|---|---|")
        yield from (f"| `{key}` | {rule.text} |" for key, rule in others[Kind.IGNORED].items())
        yield "\nRefused, but for null and the values named here:\n"
        yield from ("| field | taken | why |", "|---|---|---|")
        for key, rule in others[Kind.REFUSED].items():
            yield f"| `{key}` | {_values(rule.neutral)} | {rule.text} |"


def _type(schema: Schema) -> str:
    """A type in words; shapes are links. A null that only means absence is not named."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    if choices := _choices(schema):
        return " or ".join(map(_type, choices))
    if "const" in schema or "enum" in schema:
        return _values(schema.get("enum") or [schema["const"]])
    kind: str = schema.get("type", "any JSON")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    values = schema.get("additionalProperties")
    return f"map to {_type(values)}" if kind == "object" and isinstance(values, dict) else kind


def _choices(schema: Schema) -> list[Schema]:
    """What a value may be, if there are several; without those that only name what is wrong."""
    is_optional = schema.get("default", "") is None
    return [
        each
        for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()))
        if not (is_optional and each == NULL) and "/Unknown" not in each.get("$ref", "")
    ]


def _bounds(schema: Schema) -> str:
    """What a value must keep to; of several choices, those that have bounds."""
    if choices := _choices(schema):
        return " or ".join(filter(None, map(_bounds, choices)))
    bounds = [*_numbers(schema)]
    bounds += _range(schema.get("minLength"), schema.get("maxLength"), " characters")
    bounds += _range(schema.get("minItems"), schema.get("maxItems"), " entries")
    bounds += _range(None, schema.get("maxProperties"), " entries")
    if "pattern" in schema:
        bounds.append(_code(schema["pattern"]))
    for part, word in PARTS:
        if isinstance(schema.get(part), dict) and (bound := _bounds(schema[part])):
            bounds.append(f"{word} {bound}".replace("each each", "of these each"))
    return ", ".join(bounds)


def _numbers(schema: Schema) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMaximum" in schema:  # of integers only
        high = schema["exclusiveMaximum"] - 1
    if "exclusiveMinimum" in schema:
        yield f"above {_number(schema['exclusiveMinimum'])}"
    yield from _range(low, high, "")


def _range(low: float | None, high: float | None, unit: str) -> Iterator[str]:
    if low is not None and high is not None:
        yield f"{_number(low)} to {_number(high)}{unit}"
    elif low == 1 and unit:
        yield "not empty"
    elif low is not None:
        yield f"at least {_number(low)}{unit}"
    elif high is not None:
        yield f"at most {_number(high)}{unit}"


def _number(value: float) -> str:
    return f"{value:,.10g}" if isinstance(value, float) else f"{value:,}"


def _default(field: Schema) -> str:
    value = field.get("default")
    return "" if value is None else _code(json.dumps(value))


def _values(values: Iterable[Any]) -> str:
    return ", ".join(_code(json.dumps(value)) for value in values)


def _code(text: str) -> str:
    """As code in a cell of a table."""
    return "`" + text.replace("|", "\\|") + "`"


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _reached(names: Iterable[str], schemas: Schema) -> list[str]:
    """The shapes named, and those that they refer to, each behind what first refers to it."""
    found: dict[str, None] = {}

    def walk(name: str) -> None:
        if name not in found and not name.startswith("Unknown"):  # those only name what is wrong
            found[name] = None
            for other in re.findall(r'schemas/(\w+)"', json.dumps(schemas[name])):
                walk(other)

    for name in names:
        walk(name)
    return list(found)


def main() -> None:
    """Write the page."""
    PAGE.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
