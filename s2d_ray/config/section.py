"""What all sections of the config share: their base, and how a tree of them is read."""

from __future__ import annotations

from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from s2d_ray.errors import ConfigError


class Section(BaseModel):
    """Base of all sections: immutable, and a misspelt key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def as_written(section: Section) -> dict[str, Any]:
    """The keys a user set, defaults left out: the args of a Serve application (design D14)."""
    return section.model_dump(mode="json", exclude_unset=True)


AnySection = TypeVar("AnySection", bound=Section)


def parse_section(kind: type[AnySection], text: str, origin: str) -> AnySection:
    """Parse YAML text. Raises ConfigError that names `origin`, the key and what is wrong."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML{_place(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin}: expected a mapping at the top level")
    return check_section(kind, tree, origin)


def check_section(kind: type[AnySection], tree: Any, origin: str) -> AnySection:
    """Check a tree of plain values. Raises ConfigError that names `origin` and the key."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, origin)) from None


def _place(error: yaml.YAMLError) -> str:
    """Where and why, without the text around it, which may hold a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return ""
    return f", line {error.problem_mark.line + 1}: {error.problem}"


def _explain(error: ValidationError, origin: str) -> str:
    lines = []
    for item in error.errors():
        key = "".join(f"{part}." for part in item["loc"])[:-1]
        reason = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        # What concerns several keys names them itself.
        lines.append(f"{origin}: {key}: {reason}" if key else f"{origin}: {reason}")
    return "\n".join(lines)
