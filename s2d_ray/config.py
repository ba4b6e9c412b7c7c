"""The one config tree. Every YAML file, Helm value and command parses into `AppConfig`.

Frozen, unknown keys refused, units in names. Loads no torch and no Ray.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from s2d_ray.core.cascade import Plan
from s2d_ray.errors import ConfigError

CONFIG_VERSION: Final = 1

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]

MAX_PROPOSAL = 32
"""Deepest proposal a plan may ask for; bounds the rows of one target forward."""

MAX_TREE_WIDTH = 8
"""Most guesses a plan may ask for behind one token."""

PLACEMENT_NAME = r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$"
"""Of a group of nodes; short, since names of pods are made from it."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Section(BaseModel):
    """Base of all sections: immutable, and a misspelt key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PlanConfig(Section):
    """The plan of requests that name none: thresholds, and a cap on drafted tokens."""

    exit_thresholds: tuple[Probability, ...] = Field(
        (0.5, 0.5),
        description="One per sub-model but the deepest; below it a drafted token goes deeper.",
    )
    stop_threshold: Probability = Field(
        0.0, description="The proposal ends when the product of its confidences falls below this."
    )
    max_proposal: int = Field(
        4, ge=0, le=MAX_PROPOSAL, description="Cap on the depth of a proposal; 0: none are made."
    )
    tree_width: int = Field(
        1, ge=1, le=MAX_TREE_WIDTH, description="Guesses behind each token; 1 is a chain."
    )
    tree_depth: int = Field(
        MAX_PROPOSAL,
        ge=1,
        le=MAX_PROPOSAL,
        description="Levels that have `tree_width` guesses; deeper ones have one.",
    )
    min_match: int = Field(
        3,
        ge=0,
        le=MAX_PROPOSAL,
        description="Tier 0 guesses where so many last tokens occurred before; 0 is off.",
    )

    def plan(self) -> Plan:
        """The same plan as the core names it."""
        return Plan(**self.model_dump())


class HttpConfig(Section):
    """Where the API listens and what it accepts."""

    allow_unauthenticated: bool = Field(
        False, description="Listen on other addresses than loopback, for whoever reaches them."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=1, le=65535, description="Port; `--port` overrides it.")
    max_body_bytes: int = Field(2 * 2**20, ge=1024, description="Larger bodies get 413.")
    max_open_requests: int = Field(256, ge=1, description="Serve's max_ongoing_requests.")
    num_routers: int = Field(1, ge=1, description="Replicas of the router.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the API."""
        return _is_loopback(self.host)


class EngineConfig(Section):
    """What targets and the draft have in common: where and in which precision they run."""

    device: Device = Field("auto", description="`auto` takes a GPU where the cluster has one.")
    precision: Precision = Field(
        "float32", description="int8 runs on the CPU only. A draft's errors cost guesses, not text."
    )
    num_threads: int = Field(0, ge=0, description="Threads of a forward; 0 means all cores.")

    @model_validator(mode="after")
    def _int8_on_cpu(self) -> EngineConfig:
        if self.precision == "int8" and self.device == "cuda":
            raise ValueError("precision int8 runs on the CPU only; use bfloat16 with device cuda")
        return self


class TargetConfig(EngineConfig):
    """One target model and its replicas."""

    model: str = Field(description="Its source: a folder, a .gguf file, hub:… or pypi:… (above).")
    num_gpus: int = Field(
        1, ge=1, description="GPUs of one replica on a GPU; its layers are spread over them."
    )
    kv_cache_mib: int = Field(
        360,
        ge=1,
        description="MiB of keys and values of one replica; must hold a text of `max_context`.",
    )
    max_context: int = Field(2_048, ge=16, description="Longest prompt + output, in tokens.")
    default_max_tokens: int = Field(
        512, ge=1, description="Output cap of a request that sets none."
    )
    max_batch: int = Field(8, ge=1, description="Sequences decoded together by one replica.")
    max_waiting: int = Field(64, ge=0, description="Requests a replica queues beyond its batch.")
    prefill_chunk: int = Field(
        256, ge=16, description="Prompt tokens of one forward; a quarter beside running texts."
    )
    prefix_cache: bool = Field(True, description="Copy common beginnings of texts, once computed.")
    num_replicas: int = Field(1, ge=1, description="Replicas of this target.")
    placement: str | None = Field(
        None,
        pattern=PLACEMENT_NAME,
        description="Group of nodes that the replicas run on; `s2d serve` has one node for all.",
    )

    @model_validator(mode="after")
    def _gpus_on_gpu(self) -> TargetConfig:
        if self.num_gpus > 1 and self.device == "cpu":
            raise ValueError("num_gpus is more than 1, but device is cpu")
        return self


class DraftConfig(EngineConfig):
    """The one draft shared by all targets: a saved checkpoint, or one cut from a base model."""

    checkpoint: str | None = Field(
        None, description="Folder of a saved sorted draft, or shipped:NAME for one of the package."
    )
    base: str | None = Field(None, description="Model to cut the draft from, named like a target.")
    exit_layers: tuple[int, ...] = Field(
        (4, 8, 12), description="Layers of each sub-model, strictly rising; used with base."
    )
    head_size: int = Field(8_192, ge=256, description="Ids the exit head scores; used with base.")
    kv_cache_mib: int = Field(
        180, ge=1, description="MiB of keys, values and hidden states of all draft sessions."
    )
    deadline_ms: int = Field(1_000, ge=1, description="Longest wait of an auto round.")
    force_deadline_ms: int = Field(5_000, ge=1, description="Longest wait of a forced round.")
    prefill_chunk: int = Field(64, ge=16, description="Tokens a row may be behind and still join.")
    max_debt: int = Field(64, ge=1, description="Positions a deeper layer group may lag behind.")
    idle_s: float = Field(120.0, gt=0, description="A draft session unused this long is dropped.")
    run_ahead: bool = Field(
        False,
        description="While nobody waits, guess on behind answers; only gains on a separate device.",
    )
    health_timeout_s: float = Field(5.0, gt=0, description="Silence after which it is replaced.")
    start_timeout_s: float = Field(180.0, gt=0, description="Time it has to load.")

    @field_validator("exit_layers")
    @classmethod
    def _rising(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if (
            not layers
            or layers[0] < 1
            or any(a >= b for a, b in zip(layers, layers[1:], strict=False))
        ):
            raise ValueError("must be strictly rising numbers of layers, the first at least 1")
        return layers

    @model_validator(mode="after")
    def _one_source(self) -> DraftConfig:
        if (self.checkpoint is None) == (self.base is None):
            raise ValueError("name either checkpoint or base")
        return self


class TenancyConfig(Section):
    """Tenants, and what is kept of them. Without this section nobody is asked for a key."""

    file: str = Field(description="The tenants file, kept by `s2d tenant`; watched.")
    state_dir: str = Field(description="Folder for usage, audit log and the ledger's snapshot.")
    max_wait_s: float = Field(
        60.0, gt=0, description="A request that waits longer for its turn gets 503."
    )
    max_waiting_bytes: int = Field(
        64 * 2**20, ge=1024, description="Bodies of waiting requests, all together; more get 503."
    )
    usage_to_stdout: bool = Field(False, description="Print each usage record as well.")


class AppConfig(Section):
    """The whole system: one HTTP edge, one draft or none, named targets, one default plan."""

    version: Literal[1] = Field(CONFIG_VERSION, description="Version of this format.")
    http: HttpConfig = Field(HttpConfig(), description="The HTTP edge.")
    plan: PlanConfig = Field(PlanConfig(), description="The plan of requests that name none.")
    draft: DraftConfig | None = Field(None, description="The shared draft; none: plain decoding.")
    targets: dict[str, TargetConfig] = Field(
        min_length=1, description="Targets by name; the name is the API's `model`."
    )
    tenancy: TenancyConfig | None = Field(
        None, description="Tenants; none: whoever asks is served."
    )

    def models_at(self, place: str | None = None) -> list[str]:
        """Sources of all models, each once; with a place, those of a placement or of `draft`."""
        names = {
            target.model for target in self.targets.values() if place in (None, target.placement)
        }
        if self.draft is not None and self.draft.base is not None and place in (None, "draft"):
            names.add(self.draft.base)
        return sorted(names)

    @field_validator("targets")
    @classmethod
    def _names(cls, targets: dict[str, TargetConfig]) -> dict[str, TargetConfig]:
        for name in targets:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
                raise ValueError(
                    f"target name {name!r} must be 1-63 letters, digits, '.', '_' or '-'"
                )
        return targets

    @model_validator(mode="after")
    def _loopback_or_keys(self) -> AppConfig:
        http = self.http
        if not (http.is_loopback or http.allow_unauthenticated or self.tenancy):
            raise PydanticCustomError(
                "open_host",
                "http.host: {host} can be reached from other machines, and the API asks nobody for "
                "a key; use 127.0.0.1, add tenancy, or set http.allow_unauthenticated: true",
                {"host": http.host},
            )
        return self


def as_written(section: Section) -> dict[str, Any]:
    """The keys a user set, defaults left out: the args of a Serve application (design D14)."""
    return section.model_dump(mode="json", exclude_unset=True)


def parse_config(text: str, origin: str) -> AppConfig:
    """Parse YAML text. Raises ConfigError that names `origin`, the key and what is wrong."""
    return parse_section(AppConfig, text, origin)


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


def load_config(path: Path) -> AppConfig:
    """Read a config file. Raises ConfigError if it is missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_config(text, str(path))


def _explain(error: ValidationError, origin: str) -> str:
    lines = []
    for item in error.errors():
        key = "".join(f"{part}." for part in item["loc"])[:-1]
        reason = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        # What concerns several keys names them itself.
        lines.append(f"{origin}: {key}: {reason}" if key else f"{origin}: {reason}")
    return "\n".join(lines)
