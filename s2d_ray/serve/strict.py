"""What is wrong with a Serve document, misspelt options too: Ray drops unknown keys in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema


def troubles_of(document: Any) -> list[str]:
    """One line for each key that Ray does not know, and for each value it refuses."""
    troubles = [f"{path}: unknown key" for path in _unknown(ServeDeploySchema, document, "")]
    try:
        ServeDeploySchema.model_validate(document)
    except ValidationError as error:
        troubles += [
            f"{'.'.join(map(str, item['loc'])) or '(top level)'}: {item['msg']}"
            for item in error.errors()
        ]
    return troubles


def _unknown(annotation: Any, value: Any, path: str) -> Iterator[str]:
    """Paths of the keys in `value` that no model in `annotation` has."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(annotation, item, f"{path}.{index}")
    elif isinstance(value, dict) and (models := list(_models(annotation))):
        fields = {name: field for model in models for name, field in model.model_fields.items()}
        for key, below in value.items():
            where = f"{path}.{key}".removeprefix(".")
            if key not in fields:
                yield where
            else:
                yield from _unknown(fields[key].annotation, below, where)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is, or holds in lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _models(part)
