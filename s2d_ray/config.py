"""The one config tree. Every YAML file, Helm value and command parses into `AppConfig`.

Frozen, unknown keys refused, units in names. Loads no torch and no Ray.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator
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
from s2d_ray.policy.routing import Auto

CONFIG_VERSION: Final = 1

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]

MAX_PROPOSAL = 32
"""Deepest proposal a plan may ask for; bounds the rows of one target forward."""

CLOSING_S = 5
"""What a replica has to end beyond its longest request."""

MAX_TREE_WIDTH = 8
"""Most guesses a plan may ask for behind one token."""

TARGET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
TARGET_NAME_IN_WORDS = "1-63 letters, digits, '.', '_' or '-'"

SPARE_REQUESTS = 8
"""Requests that Serve lets through to a replica beyond what its engine takes."""

PUSH_INTERVAL_S = 2.0
"""Between two reports of what waits and runs to Serve's controller."""

BY_REQUESTS = "s2d_ray.serve.scaling:by_requests"
BY_TOKENS = "s2d_ray.serve.scaling:by_tokens"
"""Import paths of our policies for Serve's autoscaler."""

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
    max_request_s: int = Field(
        600, ge=1, description="Longest time of a request, waiting included; then it gets 503."
    )
    num_routers: int = Field(1, ge=1, description="Replicas of the router.")

    @property
    def drain_s(self) -> int:
        """How long a replica that is to end may go on with what it has."""
        return self.max_request_s + CLOSING_S

    @property
    def max_admitted(self) -> int:
        """Requests that the ledger takes: below what Serve does, so that the ledger refuses."""
        return max(1, self.max_open_requests * 7 // 8)

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
    num_threads: int = Field(0, ge=0, description="Threads of a forward; 0: all cores it may use.")

    @model_validator(mode="after")
    def _int8_on_cpu(self) -> EngineConfig:
        if self.precision == "int8" and self.device == "cuda":
            raise ValueError("precision int8 runs on the CPU only; use bfloat16 with device cuda")
        return self


class AutoscalingConfig(Section):
    """How many replicas a target has, by what waits and runs there; see docs/scaling.md.

    Keys that Serve has too carry Serve's names.
    """

    min_replicas: int = Field(
        1, ge=0, description="Fewest replicas; with 0 the first request waits for one to start."
    )
    max_replicas: int = Field(ge=1, description="Most replicas.")
    target_ongoing_requests: float | None = Field(
        None,
        gt=0,
        description="Requests a replica should carry, run or wait; by default ¾ of `max_batch`.",
    )
    target_outstanding_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens still to do that a replica should carry; counted in place of requests.",
    )
    upscale_delay_s: float = Field(
        10.0, ge=0, description="More replicas must be wanted for so long."
    )
    downscale_delay_s: float = Field(
        300.0, ge=0, description="Fewer replicas must be wanted for so long."
    )
    downscale_to_zero_delay_s: float | None = Field(
        None, ge=0, description="The same for the last replica; by default `downscale_delay_s`."
    )
    upscaling_factor: float = Field(
        1.0, gt=0, description="Replicas are added so many times what is missing."
    )
    downscaling_factor: float = Field(
        1.0, gt=0, description="Replicas are taken away so many times what is too much."
    )
    look_back_period_s: float = Field(
        10.0, gt=PUSH_INTERVAL_S, description="What runs is averaged over this window."
    )

    @model_validator(mode="after")
    def _one_measure(self) -> AutoscalingConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas: {self.min_replicas} is more than max_replicas, {self.max_replicas}"
            )
        if self.target_ongoing_requests and self.target_outstanding_tokens:
            raise ValueError(
                "target_outstanding_tokens counts tokens in place of requests; "
                "leave out target_ongoing_requests"
            )
        return self

    def carried_requests(self, max_batch: int) -> float:
        """What a replica should carry if requests are counted: less than a full batch by default,
        since replicas that are full while they carry what they should make what comes next wait.
        """
        return self.target_ongoing_requests or float(max(1, 3 * max_batch // 4))

    def serve_options(self, max_batch: int) -> dict[str, Any]:
        """Serve's `autoscaling_config`; whole, since in a document it replaces what code says."""
        options = self.model_dump(exclude_none=True, exclude={"target_outstanding_tokens"})
        tokens = self.target_outstanding_tokens
        carried = float(tokens) if tokens else self.carried_requests(max_batch)
        options["target_ongoing_requests"] = carried
        # Deprecated, and the one that works: Ray 2.60 defines its two variables, unused.
        options["metrics_interval_s"] = PUSH_INTERVAL_S
        options["policy"] = {"policy_function": BY_TOKENS if tokens else BY_REQUESTS}
        return options


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
    autoscaling: AutoscalingConfig | None = Field(
        None, description="Replicas follow the load; none: there are always `num_replicas`."
    )
    placement: str | None = Field(
        None,
        pattern=PLACEMENT_NAME,
        description="Group of nodes that the replicas run on; `s2d serve` has one node for all.",
    )

    @property
    def most_replicas(self) -> int:
        """As many as there may ever be."""
        return self.num_replicas if self.autoscaling is None else self.autoscaling.max_replicas

    @model_validator(mode="after")
    def _gpus_on_gpu(self) -> TargetConfig:
        if self.num_gpus > 1 and self.device == "cpu":
            raise ValueError("num_gpus is more than 1, but device is cpu")
        return self

    @model_validator(mode="after")
    def _scales(self) -> TargetConfig:
        if self.autoscaling is None:
            return self
        if "num_replicas" in self.model_fields_set:
            raise ValueError(
                "num_replicas: autoscaling chooses the number, between its min_replicas and "
                "max_replicas; leave num_replicas out"
            )
        wanted = self.autoscaling.target_ongoing_requests
        if wanted is not None and wanted > self.max_ongoing_requests:
            raise ValueError(
                f"autoscaling.target_ongoing_requests: {wanted:g} is more than a replica takes "
                f"(max_batch + max_waiting + {SPARE_REQUESTS} = {self.max_ongoing_requests}), "
                "so there would never be another one"
            )
        return self

    @property
    def max_ongoing_requests(self) -> int:
        """Serve's bound of a replica. More than the engine takes, so that the engine refuses."""
        return self.max_batch + self.max_waiting + SPARE_REQUESTS


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
    local_texts: int = Field(
        0, ge=0, le=64, description="Texts each router runs by itself without a ledger; 0: 503."
    )
    usage_to_stdout: bool = Field(False, description="Print each usage record as well.")


class RoutedTarget(Section):
    """What the router goes by when it chooses among targets."""

    cost: float = Field(1.0, gt=0, description="Of a token, relative; `auto` takes the dearest.")
    prefill_tokens_per_s: float = Field(1_000.0, gt=0, description="Of one prompt.")
    decode_tokens_per_s: float = Field(20.0, gt=0, description="Of one text.")


class PlanRow(Section):
    """A row of the plan table. What it leaves out fits every request."""

    target: str | None = Field(None, description="For requests that go to this target.")
    task: str | None = Field(
        None, max_length=64, description="For requests that name this class in `s2d.task`."
    )
    max_load_s: float | None = Field(
        None, ge=0, description="While the outstanding tokens are at most so many seconds of work."
    )
    plan: PlanConfig = Field(
        description="Its plan; what it leaves out comes from the config's `plan`."
    )


class RoutingConfig(Section):
    """Names that leave the choice of a target to the service, and the plan table. Live."""

    patience_s: float = Field(
        20.0, gt=0, description="`auto` takes the dearest target that answers within this time."
    )
    targets: dict[str, RoutedTarget] = Field(
        {}, description="Costs and speeds of targets, by name."
    )
    splits: dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]] = Field(
        {}, description="Names that stand for several targets, each with its weight."
    )
    plans: tuple[PlanRow, ...] = Field(
        (), description="The plan table; the first row that fits a request is its plan."
    )

    def troubles(self, targets: Collection[str]) -> Iterator[str]:
        """What is wrong with it where these are the targets; each names its key."""
        for name in (*targets, *self.splits):
            if name in list(Auto):
                where = "targets" if name in targets else "routing.splits"
                yield f"{where}.{name}: with routing, this name leaves the choice to the service"
        named = [(f"targets.{name}", name) for name in self.targets]
        for split, weights in self.splits.items():
            if not re.fullmatch(TARGET_NAME, split):
                yield f"routing.splits: {split!r} must be {TARGET_NAME_IN_WORDS}"
            if split in targets:
                yield f"routing.splits.{split}: a target has this name"
            if not sum(weights.values()):
                yield f"routing.splits.{split}: no target has a weight above 0"
            named += [(f"splits.{split}.{name}", name) for name in weights]
        for number, row in enumerate(self.plans):
            if row.target is not None:
                named.append((f"plans.{number}.target", row.target))
        for where, name in named:
            if name not in targets:
                yield f"routing.{where}: there is no target {name!r}"


class ControlConfig(Section):
    """What each target replica may decide about speculation by itself. Live."""

    frozen: bool = Field(
        False, description="Plans stay as they are; nothing is tried, measured or switched off."
    )
    share: float = Field(
        0.02,
        ge=0.0,
        le=0.25,
        description="Steps without speculation, to measure its benefit; 0: it never goes off.",
    )


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
    routing: RoutingConfig | None = Field(
        None, description="`auto`, splits and the plan table; none: requests name their target."
    )
    control: ControlConfig = Field(
        ControlConfig(), description="What replicas may decide about speculation by themselves."
    )
    plans: str | None = Field(
        None,
        description="The plan file of `s2d calibrate`, for requests that no row of the plan table "
        "fits; watched.",
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
            if not re.fullmatch(TARGET_NAME, name):
                raise ValueError(f"target name {name!r} must be {TARGET_NAME_IN_WORDS}")
        return targets

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> AppConfig:
        for trouble in self.routing.troubles(self.targets) if self.routing else ():
            raise PydanticCustomError("route", "{trouble}", {"trouble": trouble})
        return self

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
