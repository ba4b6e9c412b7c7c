"""Request bodies: strict models, and the one place where a body is checked and named when wrong."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, ValidationError

from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.fields import LONGEST_SHOWN, Endpoint, sort_extras

Label = Annotated[str, Field(max_length=512)]
Name = Annotated[str, Field(min_length=1, max_length=256)]

MAX_PARTS = 2_048
_BRANCH = "\0"


class Body(BaseModel):
    """Base of all request parts: nothing is coerced, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Request(Body):
    """Base of generating requests: what a model does not know goes by the table of fields."""

    model_config = ConfigDict(extra="allow")


def branch(name: str) -> str:
    """The tag of one branch of a union, which is no part of a path in a body."""
    return _BRANCH + name


ONE, MANY, OBJECT = branch("one"), branch("many"), branch("object")
one_or_many = Discriminator(lambda value: MANY if isinstance(value, list) else ONE)
one_or_object = Discriminator(lambda value: OBJECT if isinstance(value, dict) else ONE)


AnyBody = TypeVar("AnyBody", bound=Body)
AnyRequest = TypeVar("AnyRequest", bound=Request)


def parse(kind: type[AnyBody], raw: bytes) -> AnyBody:
    """Check a body. Raises RequestError naming the first wrong field by dotted path."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _explain(error) from None


def parse_request(
    kind: type[AnyRequest], endpoint: Endpoint, raw: bytes
) -> tuple[AnyRequest, tuple[str, ...]]:
    """Check the body of a generating request; -> it, and its fields that have no effect.

    Raises RequestError naming the first wrong, refused or unknown field.
    """
    request = parse(kind, raw)
    return request, sort_extras(endpoint, request.model_extra or {})


def _explain(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    parts = (str(part)[:LONGEST_SHOWN] for part in first["loc"] if part != "[key]")
    path = ".".join(part for part in parts if not part.startswith(_BRANCH))
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
