"""The chart renders the Serve document that `s2d serve` deploys from the same config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from s2d_ray.config import parse_config
from s2d_ray.kube.chart_files import CHART
from s2d_ray.serve.deploy import render
from s2d_ray.serve.strict import troubles_of
from tests.kube.rendering import PRESETS, manifests, serve_document

HTTP: dict[str, Any] = {"host": "0.0.0.0", "allow_unauthenticated": True}
TENANCY: dict[str, Any] = {"file": "/etc/keys/t.yaml", "state_dir": "/var/lib/state"}
GROUP = {"min": 1, "max": 40, "resources": {"limits": {"cpu": 2, "memory": "2Gi"}}}
GPU_GROUP = GROUP | {"resources": {"limits": {"cpu": 2, "memory": "2Gi", "nvidia.com/gpu": 4}}}

ON_KUBERNETES = {
    ("proxy_location",): "EveryNode",
    ("applications", "router", "deployments", "router", "num_replicas"): 2,
    ("applications", "router", "deployments", "router", "max_replicas_per_node"): 1,
}
"""All in which the chart's document differs: a proxy and a router on several nodes."""

CONFIGS: dict[str, dict[str, Any]] = {
    "smallest": {"http": HTTP, "targets": {"a": {"model": "folder", "placement": "p"}}},
    "every key that stands outside of arguments": {
        "version": 1,
        "http": HTTP
        | {"port": 9000, "max_open_requests": 7, "num_routers": 3, "max_body_bytes": 10_000_000},
        "draft": {
            "base": "hub:a/b",
            "exit_layers": [2, 4],
            "deadline_ms": 100_000_000,
            "force_deadline_ms": 3,
            "idle_s": 0.5,
        },
        "targets": {
            "b.B_2": {
                "model": "hub:a/b",
                "placement": "p",
                "num_replicas": 3,
                "max_batch": 5,
                "max_waiting": 0,
                "max_context": 1_000_000,
                "default_max_tokens": 100_000,
                "prefix_cache": False,
            },
            "a": {"model": "folder", "placement": "q", "device": "cpu", "surge": False},
        },
        "plan": {"exit_thresholds": [0.5], "stop_threshold": 0.0, "tree_width": 2},
    },
    "autoscaling by its defaults, with zeros, and by tokens": {
        "http": HTTP,
        "targets": {
            "plain": {"model": "m", "placement": "p", "autoscaling": {"max_replicas": 3}},
            "zeros": {
                "model": "m",
                "placement": "p",
                "max_batch": 5,
                "autoscaling": {
                    "min_replicas": 0,
                    "max_replicas": 3,
                    "target_ongoing_requests": 2.5,
                    "upscale_delay_s": 0,
                    "downscale_delay_s": 0,
                    "downscale_to_zero_delay_s": 0,
                    "downscaling_factor": 0.5,
                },
            },
            "tokens": {
                "model": "m",
                "placement": "p",
                "autoscaling": {
                    "max_replicas": 30,
                    "target_outstanding_tokens": 1_000_000,
                    "downscale_to_zero_delay_s": None,
                    "look_back_period_s": 30,
                },
            },
        },
    },
    "tenants, and keys that stand outside of their arguments": {
        "http": {"host": "0.0.0.0", "max_open_requests": 1},
        "targets": {
            "a": {"model": "folder", "placement": "p", "max_batch": 3},
            "b": {"model": "folder", "placement": "p"},
        },
        "tenancy": TENANCY | {"max_waiting_bytes": 1_000_000, "max_wait_s": 2.5},
    },
    "tenants by default": {
        "http": {"host": "0.0.0.0"},
        "targets": {"a": {"model": "folder", "placement": "p"}},
        "tenancy": TENANCY,
    },
    "logs in JSON, and traces": {
        "http": HTTP,
        "draft": {"base": "hub:a/b", "exit_layers": [2, 4]},
        "targets": {"a": {"model": "folder", "placement": "p"}},
        "telemetry": {
            "log_format": "json",
            "traces": "otlp",
            "otlp_endpoint": "http://c/v1/traces",
        },
    },
    "texts that YAML might read otherwise": {
        "http": HTTP,
        "targets": {"1e3": {"model": "0x10 <&> ü: #'\"", "placement": "p"}},
        "plan": {"exit_thresholds": []},
    },
    "routing that is all defaults": {
        "http": HTTP,
        "targets": {"a": {"model": "folder", "placement": "p"}},
        "routing": {},
    },
    "routing of every kind": {
        "http": HTTP,
        "targets": {
            "a": {"model": "folder", "placement": "p", "num_replicas": 2},
            "b": {"model": "other", "placement": "q", "max_batch": 3, "num_replicas": 5},
        },
        "routing": {
            "patience_s": 2.5,
            "targets": {"a": {"cost": 3, "decode_tokens_per_s": 1_000_000}},
            "splits": {"prod": {"a": 0, "b": 0.25}},
            "plans": [{"target": "a", "task": "1e3", "max_load_s": 0, "plan": {"min_match": 0}}],
        },
        "control": {"frozen": True, "share": 0.05},
        "plans": "/etc/plans/plans.json",
    },
}


def by_name(document: Any) -> Any:
    """Lists of named things become mappings, since their order means nothing."""
    if isinstance(document, dict):
        return {key: by_name(value) for key, value in document.items()}
    if isinstance(document, list) and all(
        isinstance(item, dict) and "name" in item for item in document
    ):
        return {item["name"]: by_name(item) for item in document}
    return document


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Path -> value, the empty mapping being a value."""
    if isinstance(tree, dict) and tree:
        return {
            found: value
            for key, below in tree.items()
            for found, value in leaves(below, (*path, key)).items()
        }
    return {path: tree}


def differences(ours: Any, theirs: Any) -> dict[tuple[str, ...], Any]:
    """What `theirs` says at each path where the two differ; None where it says nothing."""
    mine, other = leaves(by_name(ours)), leaves(by_name(theirs))
    return {
        path: other.get(path)
        for path in mine.keys() | other.keys()
        if (path in mine, mine.get(path)) != (path in other, other.get(path))
    }


def from_serve(config: dict[str, Any], *, gpus: bool = False) -> dict[str, Any]:
    return render(parse_config(json.dumps(config), "test"), cluster_has_gpus=gpus)


def from_chart(config: dict[str, Any], tmp_path: Path, group: dict[str, Any]) -> dict[str, Any]:
    """The document made of these values alone, as a user's file."""
    values = {"config": config, "placements": {"p": group, "q": group}, "draft": group_of(group)}
    if "tenancy" in config:
        values["secrets"] = {"tenants": {"existingSecret": "tenants"}}
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    return serve_document(manifests(str(file)))


def group_of(group: dict[str, Any]) -> dict[str, Any]:
    return {"resources": group["resources"]}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_renders_what_s2d_serve_deploys(preset: str) -> None:
    config = yaml.safe_load((CHART / "presets" / f"{preset}.yaml").read_text())["config"]
    served = from_serve(config, gpus=preset == "gpu")
    assert differences(served, serve_document(manifests(preset))) == ON_KUBERNETES


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("gpus", [False, True], ids=["processors", "gpus"])
def test_any_config_renders_what_s2d_serve_deploys(name: str, gpus: bool, tmp_path: Path) -> None:
    """`device: auto` takes a GPU where the pods of its placement have one."""
    config = CONFIGS[name]
    rendered = from_chart(config, tmp_path, GPU_GROUP if gpus else GROUP)
    assert differences(from_serve(config, gpus=gpus), rendered) == ON_KUBERNETES


@pytest.mark.parametrize("preset", PRESETS)
def test_ray_knows_every_option_of_the_document(preset: str) -> None:
    assert troubles_of(serve_document(manifests(preset))) == []


@pytest.mark.parametrize(
    ("path", "key", "trouble"),
    [
        ((), "proxy_locatoin", "proxy_locatoin: unknown key"),
        (("http_options",), "prot", "http_options.prot: unknown key"),
        (("applications", 0), "arg", "applications.0.arg: unknown key"),
        (
            ("applications", 1, "deployments", 0),
            "num_replica",
            "applications.1.deployments.0.num_replica: unknown key",
        ),
        (
            ("applications", 1, "deployments", 0, "ray_actor_options"),
            "num_gpu",
            "applications.1.deployments.0.ray_actor_options.num_gpu: unknown key",
        ),
    ],
)
def test_a_misspelt_option_is_named(path: tuple[Any, ...], key: str, trouble: str) -> None:
    """Ray itself drops it without a word, and the operator's definition cannot see it."""
    document = json.loads(json.dumps(serve_document(manifests("quickstart"))))
    section = document
    for part in path:
        section = section[part]
    section[key] = 1
    assert troubles_of(document) == [trouble]


def test_a_value_that_ray_refuses_is_named() -> None:
    document = json.loads(json.dumps(serve_document(manifests("quickstart"))))
    document["applications"][1]["deployments"][0]["max_ongoing_requests"] = "many"
    [trouble] = troubles_of(document)
    assert trouble.startswith("applications.1.deployments.0.max_ongoing_requests: ")


def test_what_is_no_document_is_said() -> None:
    assert troubles_of([1])[0].startswith("(top level): ")
