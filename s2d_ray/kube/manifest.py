"""A rendered manifest: the objects in a file of YAML. Knows no renderer and no cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from s2d_ray.config import parse_config
from s2d_ray.errors import ConfigError

Body = dict[str, Any]
"""An object as the API server takes and gives it."""

RAY_SERVICE = ("ray.io/v1", "RayService")
OURS = {"app.kubernetes.io/managed-by": "s2d-kube"}
"""The label of what `s2d kube apply` made."""

CHART_NAME = "s2d-ray"
"""In the label that the chart gives all its objects."""

CONFIG_FILE = "config.json"
"""Of the chart's ConfigMap: the config tree, for the init containers."""

MAX_NAME = 47
"""Of a RayService; KubeRay refuses longer ones."""


@dataclass(frozen=True)
class Item:
    """One object of a manifest."""

    body: Body

    @property
    def api_version(self) -> str:
        """Group and version, such as ray.io/v1."""
        return str(self.body["apiVersion"])

    @property
    def kind(self) -> str:
        """Such as RayService."""
        return str(self.body["kind"])

    @property
    def name(self) -> str:
        """Its name in its namespace."""
        return str(self.body["metadata"]["name"])

    @property
    def namespace(self) -> str | None:
        """The namespace it names itself, if any."""
        namespace = self.body["metadata"].get("namespace")
        return None if namespace is None else str(namespace)

    @property
    def is_service(self) -> bool:
        """Whether it is a RayService."""
        return (self.api_version, self.kind) == RAY_SERVICE

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def read_manifest(path: Path) -> list[Item]:
    """The objects of a file, Helm's hooks left out. Raises ConfigError naming file and object."""
    try:
        text = path.read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {reason}") from None
    items = [
        _item(document, f"{path}: object {number}")
        for number, document in enumerate(documents, 1)
        if document is not None
    ]
    items = [item for item in items if not _is_hook(item)]
    if not items:
        raise ConfigError(f"{path}: has no objects; give the output of `helm template`")
    return items


def _item(document: Any, where: str) -> Item:
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        raise ConfigError(f"{where}: is no Kubernetes object")
    for key, found in (
        ("apiVersion", document.get("apiVersion")),
        ("kind", document.get("kind")),
        ("metadata.name", document["metadata"].get("name")),
    ):
        if not isinstance(found, str) or not found:
            raise ConfigError(f"{where}: {key} is missing")
    return Item(document)


def _is_hook(item: Item) -> bool:
    return "helm.sh/hook" in (item.body["metadata"].get("annotations") or {})


def marked(body: Body) -> Body:
    """An object with the label of what we make."""
    metadata = body["metadata"]
    labels = {**(metadata.get("labels") or {}), **OURS}
    return {**body, "metadata": {**metadata, "labels": labels}}


def is_ours(live: Body) -> bool:
    """Whether `s2d kube apply` made an object, or took it over."""
    return OURS.items() <= (live["metadata"].get("labels") or {}).items()


def serve_document(service: Body) -> Any:
    """The Serve document in a RayService. Raises ConfigError if it is no YAML."""
    try:
        return yaml.safe_load(service.get("spec", {}).get("serveConfigV2") or "{}")
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"spec.serveConfigV2: not valid YAML: {reason}") from None


def images(service: Body) -> set[str]:
    """Every image that a RayService's pods run."""
    cluster = service.get("spec", {}).get("rayClusterConfig", {})
    groups = [cluster.get("headGroupSpec", {}), *cluster.get("workerGroupSpecs", [])]
    return {
        str(container.get("image"))
        for group in groups
        for part in ("initContainers", "containers")
        for container in group.get("template", {}).get("spec", {}).get(part, [])
    }


def troubles_of(item: Item) -> list[str]:
    """What can be known to be wrong with an object without a cluster, one line each."""
    if item.kind == "ConfigMap":
        return _config_troubles(item)
    if not item.is_service:
        return []
    troubles = []
    if len(item.name) > MAX_NAME:
        troubles.append(f"{item}: the name has more than {MAX_NAME} characters")
    for image in sorted(images(item.body)):
        name = image.rsplit("/", 1)[-1]
        if "@" not in name and (":" not in name or name.endswith(":latest")):
            troubles.append(f"{item}: image {image} names no fixed tag or digest")
    return troubles


def _config_troubles(item: Item) -> list[str]:
    """What no schema of values sees, such as keys that exclude each other."""
    text = (item.body.get("data") or {}).get(CONFIG_FILE)
    labels = item.body["metadata"].get("labels") or {}
    if text is None or labels.get("app.kubernetes.io/part-of") != CHART_NAME:
        return []
    try:
        parse_config(text, f"{item}: {CONFIG_FILE}")
    except ConfigError as error:
        return error.message.splitlines()
    return []
