"""Reading rendered manifests, and what is wrong with them without a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kubernetes import config

from s2d_ray.errors import ClusterError, ConfigError
from s2d_ray.kube.chart_files import PLAIN
from s2d_ray.kube.client import connect, refusal
from s2d_ray.kube.manifest import Item, is_ours, marked, read_manifest, troubles_of


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return path


def test_the_committed_manifests_are_read_and_have_no_trouble() -> None:
    for name in ("quickstart", "gpu"):
        items = read_manifest(PLAIN / f"{name}.yaml")
        assert [str(item) for item in items if item.is_service] == ["RayService s2d-ray"]
        assert [trouble for item in items for trouble in troubles_of(item)] == []


def test_hooks_of_helm_are_left_out(tmp_path: Path) -> None:
    text = (
        "{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {helm.sh/hook: test}}}\n"
        "---\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: b, annotations: null}}\n"
    )
    assert [str(item) for item in read_manifest(written(tmp_path, text))] == ["ConfigMap b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no objects"),
        ("[1]", "object 1: is no Kubernetes object"),
        ("{apiVersion: v1, kind: Pod, metadata: {}}", "object 1: metadata.name is missing"),
        ("{kind: Pod, metadata: {name: a}}", "object 1: apiVersion is missing"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_is_no_manifest_is_said_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_manifest(written(tmp_path, text))
    assert words in caught.value.message
    assert len(caught.value.message.splitlines()) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        read_manifest(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("image", ["a", "a:latest", "host:5000/a", "host:5000/a:latest"])
def test_an_image_without_a_fixed_tag_is_named(image: str) -> None:
    pod = {"spec": {"containers": [{"image": image}]}}
    body = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "n" * 48},
        "spec": {"rayClusterConfig": {"headGroupSpec": {"template": pod}}},
    }
    [name, found] = troubles_of(Item(body))
    assert "more than 47 characters" in name
    assert found.endswith(f"image {image} names no fixed tag or digest")


CONFIG = {"targets": {"a": {"model": "m", "num_replicas": 2, "autoscaling": {"max_replicas": 3}}}}


def test_a_config_that_no_schema_finds_wrong_is_told_by_its_keys() -> None:
    """Of the chart's own ConfigMap, not of somebody else's."""
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "a-config", "labels": {"app.kubernetes.io/part-of": "s2d-ray"}},
        "data": {"config.json": json.dumps(CONFIG)},
    }
    [trouble] = troubles_of(Item(body))
    assert trouble.startswith("ConfigMap a-config: config.json: targets.a: ")
    assert "num_replicas: autoscaling chooses the number" in trouble
    assert troubles_of(Item(body | {"metadata": {"name": "a-config"}})) == []


@pytest.mark.parametrize("text", ["a: [", "[1]", "{apiVersion: v1, kind: Config, contexts: 3}"])
def test_a_kubeconfig_that_is_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    path = written(tmp_path, text)
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    with pytest.raises(ClusterError) as caught:
        connect(None, None, None)
    assert "kubeconfig" in caught.value.message
    assert len(caught.value.message.splitlines()) == 1


def test_what_we_make_is_marked_and_known_again() -> None:
    body = {"metadata": {"name": "a", "labels": {"team": "b"}}}
    assert not is_ours(body)
    assert is_ours(marked(body))
    assert marked(body)["metadata"]["labels"]["team"] == "b"
    assert body == {"metadata": {"name": "a", "labels": {"team": "b"}}}


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "log in again"), (403, "no right to patch"), (409, "--force"), (422, "refused (422)")],
)
def test_each_refusal_says_what_to_do(status: int, words: str) -> None:
    assert words in refusal(status, "why", "patch")


def test_the_command_ends_a_mistake_with_one_line_and_status_2(tmp_path: Path) -> None:
    """Of a missing file, and of a missing cluster."""
    for file, words in (
        ("nowhere.yaml", "s2d: nowhere.yaml: cannot be read: No such file or directory\n"),
        (str(PLAIN / "quickstart.yaml"), "s2d: no cluster: set KUBECONFIG to a kubeconfig"),
    ):
        code = "from s2d_ray.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "kube", "check", file],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"KUBECONFIG": str(tmp_path / "none")},
        )
        assert done.returncode == 2
        assert done.stderr.startswith(words)
        assert len(done.stderr.splitlines()) == 1
