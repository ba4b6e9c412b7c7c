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

    message: str = Field(description="What is wrong, in words; the field first, if it is one.")
    type: str = Field(description="Kind of error, as OpenAI names it.")
    param: str | None = Field(description="The field, by its path.")
    code: str | None = Field(description="Stable, for programs.")


class Error(Shape):
    """An error in OpenAI's form."""

    error: ErrorDetail = Field(description="What is wrong.")


class PlanShape(Shape):
    """How a request is drafted."""

    exit_thresholds: list[float] = Field(
        description="One per sub-model but the deepest; below it a guess goes deeper."
    )
    stop_threshold: float = Field(
        description="The draft's proposal ends once its confidences multiply to less."
    )
    max_proposal: int = Field(description="Most levels of the draft's proposals; 0: never asked.")
    tree_width: int = Field(description="Guesses behind each token.")
    tree_depth: int = Field(description="Levels that have so many guesses.")
    min_match: int = Field(
        description="Tokens that must have occurred before for tier 0 to guess; 0: never."
    )
    max_lookup: int = Field(description="Most guesses of tier 0.")
    draft_toll: float = Field(
        description="Cost of a proposal of the draft, in target steps; tier 0 is weighed by it."
    )


class Tokenized(Shape):
    """A prompt as the target reads it."""

    count: Count = Field(description="Number of ids.")
    max_model_len: Count = Field(description="The target's `max_context`.")
    tokens: list[int] = Field(description="The ids.")
    token_strs: list[str] | None = Field(
        description="What each id decodes to by itself; with `return_token_strs`."
    )


class Detokenized(Shape):
    """The text of ids."""

    prompt: str = Field(description="The text.")


class ModelFacts(Shape):
    """A target's source, the tokens it takes, and its default plan."""

    model: str = Field(description="Its source in the config.")
    max_context: int = Field(description="Longest prompt and answer together, in tokens.")
    plan: PlanShape = Field(description="The plan of requests that say nothing.")


class RouteFacts(Shape):
    """Targets among which the service chooses."""

    chooses_among: list[str] = Field(description="Names of targets.")


class Model(Shape):
    """A target, or a name that stands for a choice among some."""

    id: str = Field(description="What a request's `model` may say.")
    object: Literal["model"] = Field(description="Always this.")
    created: int = Field(description="When its router first knew it, in seconds since 1970.")
    owned_by: str = Field(description="Always `s2d-ray`.")
    s2d: ModelFacts | RouteFacts = Field(description="A target, or a choice among some.")


class ModelList(Shape):
    """All targets, and the names that stand for a choice among them."""

    object: Literal["list"] = Field(description="Always this.")
    data: list[Model] = Field(description="All of them.")


class TargetState(Shape):
    """State of one target."""

    ready: bool = Field(description="Whether a replica answers.")
    bitwise_exact: bool | None = Field(
        description="Whether its host keeps texts equal bit for bit; null while nobody answers."
    )
    draft_circuit: str = Field(
        description="Its circuit breaker towards the draft; `closed`: the draft is asked."
    )
    counters: dict[str, float] = Field(description="Of one replica, and `replicas`, their number.")
    control: dict[str, Any] = Field(
        description="Plans in force, and the measured benefit of speculation."
    )


class HealthBody(Shape):
    """State of the whole service."""

    status: Literal["ok", "degraded", "starting"] = Field(
        description="`degraded`: without its draft; `starting`: no target answers."
    )
    ready: bool = Field(description="Whether a target answers.")
    degraded: bool = Field(description="Whether there should be a draft and is none.")
    targets: dict[str, TargetState] = Field(description="By name.")
    draft: dict[str, Any] = Field(description="State and counters of the draft; empty without one.")


class Ready(Shape):
    """A target answers."""

    status: Literal["ok", "degraded"] = Field(description="`degraded`: without its draft.")


class NotReady(Error):
    """No target answers yet."""

    status: Literal["starting"] = Field(description="Always this.")


class Version(Shape):
    """The version of s2d-ray."""

    version: str = Field(description="Of the package.")


class UsageBody(Shape):
    """Sums by tenant and target since the first start: requests and tokens of each kind."""

    object: Literal["usage"] = Field(description="Always this.")
    tenants: dict[str, dict[str, dict[str, int]]] = Field(
        description="By tenant, target, and kind of count."
    )


class Revoked(Shape):
    """A key does not work any more; so many routers have confirmed it."""

    key_id: str = Field(description="Which key.")
    revoked: Literal[True] = Field(description="Always this.")
    routers: int = Field(description="How many routers have confirmed it.")
