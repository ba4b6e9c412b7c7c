"""The values of the chart `helm/s2d-ray`. Its `values.yaml` and its schema are made from here.

Knows nothing of templates and of clusters. Names are Helm's (camelCase); only `config`, the one
config tree, keeps its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

from s2d_ray.config import PLACEMENT_NAME, AppConfig
from s2d_ray.observe.alerts import Thresholds

AMOUNT = r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"
Quantity = int | float | Annotated[str, Field(pattern=AMOUNT)]
"""An amount as Kubernetes writes it: 2, 0.5, "500m", "16Gi"."""

KubernetesObject = dict[str, Any]
"""Handed on as it is; the API server checks it."""

RESERVED = ("router", "control", "draft")
"""Groups that the chart makes itself."""

MIN_GPU_IDLE_S = 600


class Values(BaseModel):
    """Base of all sections: a misspelt key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True
    )


def _keys_not(pattern: str) -> JsonDict:
    """No key like this: the chart or the operator has these, and YAML takes a key once."""
    return {"propertyNames": {"not": {"pattern": pattern}}}


class Image(Values):
    """The image of every pod: this package, its Ray, and nothing about models."""

    repository: str = Field("", description="Required: where the cluster pulls the image from.")
    tag: str = Field(
        "",
        description="By default the chart's appVersion; not `latest`.",
        json_schema_extra={"not": {"const": "latest"}},
    )
    digest: str = Field(
        "", pattern=r"^(sha256:[0-9a-f]{64})?$", description="sha256:…; goes before the tag."
    )
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="")
    pull_secrets: tuple[str, ...] = Field((), description="Names of Secrets of a private registry.")


class Amounts(BaseModel):
    """Processor and memory, and whatever else a node offers, such as `nvidia.com/gpu`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Quantity] = Field(init=False)

    cpu: Quantity
    memory: Quantity


class Resources(Values):
    """What a pod asks for and what it may use at most."""

    requests: dict[str, Quantity] = Field({}, description="By default the limits.")
    limits: Amounts


class Toleration(Values):
    """A taint that a pod puts up with."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] | None = None
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Group(Values):
    """Pods of one kind, each of them a Ray node."""

    resources: Resources
    node_selector: dict[str, str] = Field({}, description="Labels a Kubernetes node must have.")
    tolerations: tuple[Toleration, ...] = Field((), description="Taints that are put up with.")


class Budget(Values):
    """A PodDisruptionBudget."""

    enabled: bool = Field(True, description="Keep one of the pods while nodes are drained.")


class RouterGroup(Group):
    """The HTTP edge."""

    replicas: int = Field(2, ge=2, le=50, description="Pods, each with one replica of the router.")
    pdb: Budget = Budget()


class State(Values):
    """Where the ledger keeps usage, revoked keys and buckets."""

    existing_claim: str = Field(
        "", description="A claim of yours; without one all ends with the pod."
    )
    size: Quantity = Field("2Gi", description="Bound of an emptyDir; logs take up to 1.2 GB.")


class ControlGroup(Group):
    """One pod for the draft manager and, with `config.tenancy`, the ledger."""

    state: State = State()


class Placement(Group):
    """Where targets run: `placement` of a target in `config` is one of these."""

    min: int = Field(ge=0, description="Pods that are always there.")
    max: int = Field(ge=1, description="Pods that the autoscaler may make of it.")
    ray_labels: dict[str, str] = Field(
        {},
        description="More Ray labels of its nodes.",
        json_schema_extra=_keys_not(r"^(s2d-ray|ray\.io)/"),
    )


class ModelCache(Values):
    """Where models lie once they are fetched."""

    type: Literal["emptyDir", "claim"] = Field(
        "emptyDir", description="`emptyDir`: each pod fetches its own; `claim`: one for all pods."
    )
    size: Quantity = Field("10Gi", description="Bound of an emptyDir.")
    existing_claim: str = Field("", description="A ReadWriteMany claim, for the type `claim`.")


class SecretName(Values):
    """A Secret that is already there; the chart takes no secret values, Helm would store them."""

    existing_secret: str = Field("", description="Its name.")


class Secrets(Values):
    """Names of Secrets."""

    tenants: SecretName = Field(
        SecretName(),
        description="The tenants file, key `tenants.yaml`; `s2d kube tenants sync` keeps it.",
    )
    test_key: SecretName = Field(
        SecretName(), description="An API key, key `key`, for `helm test`; needed with tenants."
    )
    hub: SecretName = Field(
        SecretName(), description="The hub's token, key `token`, for gated models."
    )
    ray_token: SecretName = Field(
        SecretName(), description="Ray's own token, key `auth_token`; else the operator makes one."
    )
    redis: SecretName = Field(SecretName(), description="Redis' password, key `password`.")


class FaultTolerance(Values):
    """Serving outlives the head if its state lies in a Redis of yours."""

    redis_address: str = Field("", description="host:port; empty: off.")


class Autoscaling(Values):
    """When a pod without work goes."""

    idle_timeout_seconds: int = Field(60, ge=1, description="Of groups without GPUs.")
    gpu_idle_timeout_seconds: int = Field(
        MIN_GPU_IDLE_S, ge=MIN_GPU_IDLE_S, description="Of groups with GPUs."
    )


class Alerts(Values):
    """A PrometheusRule with the alerts of docs/alerts.md."""

    enabled: bool = Field(False, description="Needs monitoring.coreos.com/v1 in the cluster.")
    thresholds: Thresholds = Thresholds()


class Dashboards(Values):
    """ConfigMaps with the pages of docs/dashboards.md, for the sidecar of Grafana's chart."""

    enabled: bool = Field(False, description="")
    labels: dict[str, str] = Field(
        {"grafana_dashboard": "1"}, description="Labels that the sidecar selects by."
    )
    annotations: dict[str, str] = Field(
        {}, description="Such as the folder, where the sidecar reads one from there."
    )


class Monitoring(Values):
    """Two PodMonitors for the Prometheus operator."""

    enabled: bool = Field(False, description="Needs monitoring.coreos.com/v1 in the cluster.")
    labels: dict[str, str] = Field(
        {}, description="Labels that your Prometheus selects monitors and rules by."
    )
    alerts: Alerts = Alerts()
    dashboards: Dashboards = Dashboards()


class Ingress(Values):
    """An Ingress to the API."""

    enabled: bool = Field(False, description="")
    class_name: str = Field("", description="")
    host: str = Field("", description="")
    tls_secret: str = Field("", description="A Secret of type kubernetes.io/tls.")
    annotations: dict[str, str] = Field({}, description="")


class Policy(Values):
    """A NetworkPolicy: only these peers, the operator and the pods themselves reach the pods."""

    enabled: bool = Field(True, description="")
    allow_from: tuple[KubernetesObject, ...] = Field(
        ({"podSelector": {}},),
        description="NetworkPolicyPeers that may call the API; by default the namespace's pods.",
    )
    operator_from: tuple[KubernetesObject, ...] = Field(
        (
            {
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}},
            },
        ),
        description="NetworkPolicyPeers that are the KubeRay operator.",
    )


class Network(Values):
    """Who reaches the API, and how."""

    ingress: Ingress = Ingress()
    policy: Policy = Policy()


def _limits(cpu: Quantity, memory: str) -> Resources:
    return Resources(limits=Amounts.model_validate({"cpu": cpu, "memory": memory}))


class ChartValues(Values):
    """All values of the chart."""

    image: Image = Image()
    config: AppConfig = Field(
        description="The config tree of docs/configuration.md, as `s2d serve` takes it."
    )
    plan_file: str = Field(
        "",
        description="Contents of the plan file, such as by `--set-file planFile=plans.json`; pods "
        "find it as /etc/s2d-ray/plans.json, which config.plans names.",
    )
    head: Group = Field(
        Group(resources=_limits(1, "4Gi")), description="Ray's head; it runs no application."
    )
    router: RouterGroup = Field(
        RouterGroup(resources=_limits(1, "2Gi")), description="The HTTP edge."
    )
    control: ControlGroup = Field(
        ControlGroup(resources=_limits(1, "2Gi")),
        description="One pod for the draft manager and, with `config.tenancy`, the ledger.",
    )
    draft: Group = Field(
        Group(resources=_limits(2, "4Gi")), description="One pod for the draft; never scaled away."
    )
    placements: dict[str, Placement] = Field(
        {},
        description="Groups of pods for targets, by the name that targets say.",
        json_schema_extra={
            "propertyNames": {"pattern": PLACEMENT_NAME, "not": {"enum": list(RESERVED)}}
        },
    )
    model_cache: ModelCache = ModelCache()
    termination_grace_period_seconds: int = Field(
        660,
        ge=1,
        description="For a pod, or a replaced cluster, to end; above config.http.max_request_s.",
    )
    shared_memory: Quantity = Field("512Mi", description="/dev/shm of each pod.")
    secrets: Secrets = Secrets()
    gcs_fault_tolerance: FaultTolerance = FaultTolerance()
    autoscaling: Autoscaling = Autoscaling()
    monitoring: Monitoring = Monitoring()
    network: Network = Network()
    extra_labels: dict[str, str] = Field(
        {},
        description="Labels of every object.",
        json_schema_extra=_keys_not(r"^(app\.kubernetes\.io|helm\.sh|ray\.io)/"),
    )
    extra_objects: tuple[KubernetesObject, ...] = Field(
        (), description="Objects that are installed beside the chart's own."
    )
    global_: dict[str, Any] = Field({}, alias="global", description="Of a parent chart; unused.")
