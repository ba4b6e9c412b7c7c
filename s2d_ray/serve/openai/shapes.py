"""Shapes of answers, for the published OpenAPI document; tests hold the answers to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]


class Shape(BaseModel):
    """Base of all shapes: nothing else is sent; what has a default may be left out."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Shape):
    """What is wrong; `param` names the field, `code` is stable for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Shape):
    """An error in OpenAI's form."""

    error: ErrorDetail


class PlanShape(Shape):
    """How a request is drafted."""

    exit_thresholds: list[float]
    stop_threshold: float
    max_proposal: int
    tree_width: int
    tree_depth: int
    min_match: int


class Tokenized(Shape):
    """A prompt as the target reads it."""

    count: Count
    max_model_len: Count
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(Shape):
    """The text of ids."""

    prompt: str


class ModelFacts(Shape):
    """A target's source, the tokens it takes, and its default plan."""

    model: str
    max_context: int
    plan: PlanShape


class RouteFacts(Shape):
    """Targets among which the service chooses."""

    chooses_among: list[str]


class Model(Shape):
    """A target, or a name that stands for a choice among some."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    s2d: ModelFacts | RouteFacts


class ModelList(Shape):
    """All targets, and the names that stand for a choice among them."""

    object: Literal["list"]
    data: list[Model]


class TargetState(Shape):
    """State of one target."""

    ready: bool
    bitwise_exact: bool | None
    draft_circuit: str
    counters: dict[str, float]
    control: dict[str, Any]


class HealthBody(Shape):
    """State of the whole service."""

    status: Literal["ok", "degraded", "starting"]
    ready: bool
    degraded: bool
    targets: dict[str, TargetState]
    draft: dict[str, Any]


class Ready(Shape):
    """A target answers."""

    status: Literal["ok", "degraded"]


class NotReady(Error):
    """No target answers yet."""

    status: Literal["starting"]


class Version(Shape):
    """The version of s2d-ray."""

    version: str


class UsageBody(Shape):
    """Sums by tenant and target since the first start: requests and tokens of each kind."""

    object: Literal["usage"]
    tenants: dict[str, dict[str, dict[str, int]]]


class Revoked(Shape):
    """A key does not work any more; so many routers have confirmed it."""

    key_id: str
    revoked: Literal[True]
    routers: int
