"""Helm for the tests: where it is, and what it makes of the chart."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2d_ray.kube.chart_files import CHART, presets

Manifest = dict[str, Any]

PRESETS = presets()
DATA = Path(__file__).parent / "data"
IMAGE = "registry.example/s2d-ray"


def tool(name: str) -> str:
    """Path of helm or kubectl; skips the test where it is not to be had."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not there; `make kube-tools` fetches it")
    return found


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm; the caller looks at its status."""
    return subprocess.run([tool("helm"), *arguments], capture_output=True, text=True, check=False)


def template(values: str, *arguments: str, release: str = "s2d-ray") -> str:
    """A preset, or a file of values, rendered; fails with Helm's words."""
    done = attempt(values, *arguments, release=release)
    assert done.returncode == 0, done.stderr
    return done.stdout


def attempt(
    values: str, *arguments: str, release: str = "s2d-ray"
) -> subprocess.CompletedProcess[str]:
    """A preset, or a file of values, given to `helm template` with an image."""
    file = str(CHART / "presets" / f"{values}.yaml") if values in PRESETS else values
    image = ("--set", f"image.repository={IMAGE}")
    return helm("template", release, str(CHART), "-f", file, *image, *arguments)


@cache
def manifests(values: str, *arguments: str) -> list[Manifest]:
    """The objects of a rendered preset or file of values; not to be changed."""
    return documents(template(values, *arguments))


def documents(text: str) -> list[Manifest]:
    """The objects in a stream of YAML."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, loader) if document]


def of_kind(objects: list[Manifest], kind: str) -> Manifest:
    """The one object of a kind."""
    [found] = [item for item in objects if item["kind"] == kind]
    return found


def groups_of(objects: list[Manifest]) -> dict[str, Manifest]:
    """Name -> worker group; the head is `head`."""
    cluster = of_kind(objects, "RayService")["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return groups | {"head": cluster["headGroupSpec"]}


def serve_document(objects: list[Manifest]) -> Manifest:
    """The rendered Serve document, read as Ray reads it."""
    text = of_kind(objects, "RayService")["spec"]["serveConfigV2"]
    document: Manifest = yaml.safe_load(text)
    return document


@cache
def kubernetes_schema(version: str) -> dict[str, Any]:
    """Strict schemas of one Kubernetes version, with the table of kinds."""
    content = lzma.decompress((DATA / f"kubernetes-{version}.json.xz").read_bytes())
    schema: dict[str, Any] = json.loads(content)
    return schema


@cache
def custom_resource(name: str) -> dict[str, Any]:
    """A CustomResourceDefinition, such as `ray.io_rayservices`."""
    [definition] = documents(lzma.decompress((DATA / f"{name}.yaml.xz").read_bytes()).decode())
    return definition


@cache
def custom_schema(name: str) -> dict[str, Any]:
    """The schema of a custom resource's version v1, no unknown property allowed anywhere."""
    versions = custom_resource(name)["spec"]["versions"]
    [version] = [item for item in versions if item["name"] == "v1"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    closed = _closed(schema)
    closed["properties"]["metadata"] = {"type": "object"}
    return closed


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if "properties" in closed and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    if closed.pop("x-kubernetes-int-or-string", False):
        closed.pop("type", None)
    return closed
