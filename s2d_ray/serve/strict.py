"""What is wrong with a Serve document, misspelt options too: Ray drops unknown keys in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ray.serve._private.constants import (
    DEFAULT_MAX_ONGOING_REQUESTS,
    DEFAULT_TARGET_ONGOING_REQUESTS,
)
from ray.serve.schema import ServeDeploySchema

from s2d_ray.config import BY_REQUESTS, BY_TOKENS


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
    else:
        troubles += _scaling_troubles(document)
    return troubles


def _scaling_troubles(document: dict[str, Any]) -> Iterator[str]:
    """What Ray takes and would scale otherwise than we do, or never."""
    for index, application in enumerate(document["applications"]):
        where = f"applications.{index}"
        if application.get("autoscaling_policy"):
            yield f"{where}.autoscaling_policy: it would replace the policies of deployments"
        for number, deployment in enumerate(application.get("deployments", ())):
            config = deployment.get("autoscaling_config")
            if config is not None or deployment.get("num_replicas") == "auto":
                at = f"{where}.deployments.{number}.autoscaling_config"
                yield from _config_troubles(config or {}, deployment, at)


def _config_troubles(
    config: dict[str, Any], deployment: dict[str, Any], where: str
) -> Iterator[str]:
    policy = (config.get("policy") or {}).get("policy_function")
    if policy not in (BY_REQUESTS, BY_TOKENS):
        yield (
            f"{where}.policy.policy_function: must be {BY_REQUESTS} or {BY_TOKENS}; "
            "Serve's own does not know what the ledger holds"
        )
    wanted = config.get("target_ongoing_requests", DEFAULT_TARGET_ONGOING_REQUESTS)
    taken = deployment.get("max_ongoing_requests", DEFAULT_MAX_ONGOING_REQUESTS)
    if policy != BY_TOKENS and wanted > taken:
        yield (
            f"{where}.target_ongoing_requests: {wanted:g} is more than max_ongoing_requests, "
            f"{taken}, so there would never be another replica"
        )


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
