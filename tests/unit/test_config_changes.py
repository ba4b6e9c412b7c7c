"""What `s2d check --diff` says of a change, against what Ray Serve itself would do about it."""

from __future__ import annotations

import copy
import re
import types
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.deploy_utils import get_app_code_version
from ray.serve._private.utils import DeploymentOptionUpdateType
from ray.serve._private.version import DeploymentVersion
from ray.serve.schema import ServeDeploySchema

from s2d_ray.changes import IN_PLACE_OPTIONS, LIVE_OPTIONS, Effect
from s2d_ray.config import AppConfig, Section
from s2d_ray.serve.config_changes import ConfigChange, config_changes
from s2d_ray.serve.deploy import render

ROOT = Path(__file__).parents[2]

BASE: dict[str, Any] = {
    "http": {"allow_unauthenticated": True},
    "plan": {},
    "draft": {"base": "hub:a/b"},
    "targets": {
        "a": {"model": "hub:a/b"},
        "b": {"model": "hub:a/b", "placement": "small"},
        "scaled": {"model": "hub:a/b", "autoscaling": {"max_replicas": 4}},
    },
    "tenancy": {"file": "tenants.yaml", "state_dir": "state"},
    "routing": {"targets": {"a": {}}},
    "control": {},
    "telemetry": {"traces_dir": "spans", "otlp_endpoint": "http://a/v1/traces"},
    "prices": {"currency": "EUR"},
}
"""Every section is written, so that each of its keys can change alone."""

NOT_BY_ARGUMENTS = {"targets.a.placement", "targets.scaled.autoscaling.target_outstanding_tokens"}
"""Keys that restart a target by the options of its deployment: another place, another policy."""

FOR_COMMANDS = "prices."
"""Keys that nothing that runs reads."""

DROP = object()
OTHERS: dict[str, dict[str, Any]] = {
    "http.allow_unauthenticated": {"allow_unauthenticated": False},
    "http.host": {"host": "127.0.0.2"},
    "http.max_open_requests": {"max_open_requests": 80},
    "plan.exit_thresholds": {"exit_thresholds": [0.25, 0.5]},
    "draft.exit_layers": {"exit_layers": [2, 4]},
    "draft.base": {"base": "hub:a/c"},
    "draft.checkpoint": {"base": DROP, "checkpoint": "folder"},
    "targets.a.model": {"model": "hub:a/c"},
    "targets.a.placement": {"placement": "big"},
    "targets.scaled.autoscaling.max_replicas": {"max_replicas": 5},
    "targets.scaled.autoscaling.target_ongoing_requests": {"target_ongoing_requests": 3},
    "targets.scaled.autoscaling.target_outstanding_tokens": {"target_outstanding_tokens": 9_000},
    "targets.scaled.autoscaling.downscale_to_zero_delay_s": {"downscale_to_zero_delay_s": 5},
    "routing.splits": {"splits": {"both": {"a": 1}}},
    "routing.plans": {"plans": [{"plan": {"max_proposal": 2}}]},
    "control.share": {"share": 0.1},
    "plans": {"plans": "plans.json"},
    "telemetry.log_format": {"log_format": "json"},
    "telemetry.traces": {"traces": "file"},
    "telemetry.traces_dir": {"traces_dir": "elsewhere"},
    "telemetry.otlp_endpoint": {"otlp_endpoint": "http://b/v1/traces"},
    "prices.currency": {"currency": "CHF"},
    "prices.replica_hour": {"replica_hour": 0.5},
    "prices.placements": {"placements": {"small": 0.2}},
    "prices.targets": {"targets": {"a": 0.5}},
    "prices.draft_hour": {"draft_hour": 0.1},
    "tenancy.file": {"file": "others.yaml"},
    "tenancy.state_dir": {"state_dir": "elsewhere"},
    **{f"{where}.device": {"device": "cpu"} for where in ("draft", "targets.a")},
    **{f"{where}.precision": {"precision": "bfloat16"} for where in ("draft", "targets.a")},
}
"""What a key is changed to, where that does not follow from its default."""


def section_in(annotation: Any) -> type[Section] | None:
    """The section that a type is, or may be."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next(filter(None, map(section_in, get_args(annotation))), None)
    return None


def keys_of(section: type[Section], where: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Path and field of every key; of the targets, those of `a`, and of `scaled` how it scales."""
    for name, field in section.model_fields.items():
        inner, path = section_in(field.annotation), f"{where}{name}"
        if get_origin(field.annotation) is dict:
            inner = section_in(get_args(field.annotation)[1])
            path = path if inner is None else f"{path}.a"
        if inner is not None:
            yield from keys_of(inner, f"{path}.".replace("a.autoscaling", "scaled.autoscaling"))
        elif path != "version":  # there is only one
            yield path, field


KEYS = dict(keys_of(AppConfig))


def other_values(path: str) -> dict[str, Any]:
    """A change of one key: values for its section."""
    if path in OTHERS:
        return OTHERS[path]
    default = KEYS[path].default
    assert isinstance(default, int | float), f"say in OTHERS what {path} is changed to"
    if isinstance(default, bool):
        other: Any = not default
    else:
        other = default + 1 if isinstance(default, int) else default + 0.5
    if path == "plan.tree_depth":
        other = default - 1
    return {path.rpartition(".")[2]: other}


def changed(paths: Collection[str]) -> AppConfig:
    """The base config with other values at some keys."""
    tree = copy.deepcopy(BASE)
    for path in paths:
        section = tree
        for part in path.split(".")[:-1]:
            assert part in section, f"write {path.rpartition('.')[0]} in BASE"
            section = section[part]
        for key, value in other_values(path).items():
            if value is DROP:
                section.pop(key, None)
            else:
                section[key] = value
    return AppConfig.model_validate(tree)


def versions(config: AppConfig) -> dict[str, list[DeploymentVersion]]:
    """What Serve's controller compares, made by its own code, of each application."""
    schema = ServeDeploySchema.model_validate(render(config, cluster_has_gpus=True))
    found = {}
    for app in schema.applications:
        code = get_app_code_version(app)
        found[app.name] = [DeploymentVersion(code, DeploymentConfig(), {})]
        for deployment in app.deployments:
            options = deployment.model_dump(exclude_unset=True)
            known = {k: v for k, v in options.items() if k in DeploymentConfig.model_fields}
            found[app.name].append(
                DeploymentVersion(
                    code,
                    DeploymentConfig(**known),
                    options.get("ray_actor_options"),
                    max_replicas_per_node=options.get("max_replicas_per_node"),
                )
            )
    return found


@cache
def versions_of_base() -> dict[str, list[DeploymentVersion]]:
    return versions(changed(()))


def restarted_by_serve(new: AppConfig) -> set[str]:
    """What Serve would restart on the way from the base config."""
    before, after = versions_of_base(), versions(new)
    return {
        f"application {name}"
        for name in before.keys() & after.keys()
        if any(
            was.requires_actor_restart(becomes)
            for was, becomes in zip(before[name], after[name], strict=True)
        )
    }


def named(steps: list[ConfigChange], effect: Effect) -> set[str]:
    return {change.what for step in steps for change in step.changes if change.effect is effect}


@pytest.mark.parametrize("path", KEYS)
def test_what_is_said_to_restart_is_what_serve_would_restart(path: str) -> None:
    """For every key there is; and all but two restart what their arguments are in."""
    old, new = changed(()), changed([path])
    assert old != new
    steps = list(config_changes(old, new))
    [step] = steps
    assert path in step.keys
    assert bool(step.changes) != path.startswith(FOR_COMMANDS), "a key that changes nothing"
    restarted = named(steps, Effect.RESTART)
    assert restarted == restarted_by_serve(new)
    before, after = (
        render(config, cluster_has_gpus=False)["applications"] for config in (old, new)
    )
    by_arguments = {
        f"application {was['name']}"
        for was, becomes in zip(before, after, strict=True)
        if was["args"] != becomes["args"]
    }
    assert by_arguments <= restarted
    assert (by_arguments != restarted) == (path in NOT_BY_ARGUMENTS)


@settings(max_examples=15, deadline=None)
@given(paths=st.sets(st.sampled_from(sorted(KEYS)), min_size=2, max_size=8))
def test_the_steps_together_restart_what_the_whole_change_restarts(paths: set[str]) -> None:
    """`base` gives way to `checkpoint` in one step, whatever else changes."""
    if {"draft.base", "draft.checkpoint"} <= paths:
        paths.discard("draft.base")
    if "targets.scaled.autoscaling.target_outstanding_tokens" in paths:
        paths.discard("targets.scaled.autoscaling.target_ongoing_requests")
    old, new = changed(()), changed(paths)
    steps = list(config_changes(old, new))
    assert named(steps, Effect.RESTART) == restarted_by_serve(new)
    assert paths <= {key for step in steps for key in step.keys}
    assert list(config_changes(new, new)) == []


def test_serve_replaces_no_replica_for_the_options_that_count_as_in_place() -> None:
    kinds = {
        name: (field.json_schema_extra or {})["update_type"]  # type: ignore[index]
        for name, field in DeploymentConfig.model_fields.items()
        if name in LIVE_OPTIONS | IN_PLACE_OPTIONS
    }
    assert kinds.keys() == LIVE_OPTIONS | IN_PLACE_OPTIONS
    assert DeploymentOptionUpdateType.HeavyWeight not in kinds.values()


def class_of(path: str) -> str:
    """What the documentation says of a key; the ledger is there only with tenants."""
    [step] = config_changes(changed(()), changed([path]))
    restarted = {what.removeprefix("application ") for what in named([step], Effect.RESTART)}
    targets = {name for name in restarted if name.startswith("target-")}
    told = [
        "the draft" if "draft" in restarted else "",
        {0: "", 1: "the target"}.get(len(targets), "all targets"),
        "the router" if "router" in restarted else "",
        "the ledger" if "ledger" in restarted else "",
    ]
    if named([step], Effect.NEXT_CLUSTER):
        return "new cluster"
    if not step.changes:
        return "for commands"
    if any(told):
        return "restart of " + " and ".join(filter(None, told))
    effects = {change.effect for change in step.changes}
    return (Effect.IN_PLACE if Effect.IN_PLACE in effects else Effect.LIVE).partition(";")[0]


def table() -> str:
    """The table in docs/configuration.md."""
    rows: dict[str, list[str]] = {}
    for path in KEYS:
        rows.setdefault(class_of(path), []).append(
            re.sub(r"targets\.(a|scaled)\.", "targets.NAME.", path)
        )
    lines = ["| class | keys |", "|---|---|"]
    for name in sorted(rows):
        keys = ", ".join(f"`{key}`" for key in rows[name])
        lines.append(f"| {name} | {keys} |")
    return "\n".join(lines)


def test_the_table_of_classes_is_what_is_true_of_every_key() -> None:
    """Replace it by what `table` makes when this fails."""
    assert table() in (ROOT / "docs" / "configuration.md").read_text()


def steps_to(**sections: Any) -> dict[tuple[str, ...], dict[str, Effect]]:
    """What changes from the base config to one with other sections, step by step."""
    tree = {**BASE, **sections}
    new = AppConfig.model_validate({key: value for key, value in tree.items() if value is not DROP})
    return {
        step.keys: {
            change.what.removeprefix("application "): change.effect for change in step.changes
        }
        for step in config_changes(changed(()), new)
    }


def test_targets_come_and_go_and_no_other_target_restarts() -> None:
    kept = {name: BASE["targets"][name] for name in ("a", "scaled")}
    steps = steps_to(targets={**kept, "c": {"model": "hub:a/b", "max_batch": 4}})
    assert set(steps) == {("targets.b",), ("targets.c",)}
    assert steps["targets.b",]["target-b"] is Effect.ENDED
    assert steps["targets.c",]["target-c"] is Effect.STARTED
    assert all("target-a" not in changes for changes in steps.values())


def test_a_draft_that_is_left_out_ends() -> None:
    [changes] = steps_to(draft=DROP).values()
    assert changes["draft"] is Effect.ENDED


def test_the_ledger_comes_with_its_section() -> None:
    old, new = AppConfig.model_validate({**BASE, "tenancy": None}), changed(())
    [step] = config_changes(old, new)
    assert step.keys == ("tenancy",)
    assert named([step], Effect.STARTED) == {"application ledger"}


def test_keys_that_cannot_change_alone_come_together() -> None:
    """A draft has a base or a checkpoint; neither key can be taken over before the other."""
    assert steps_to(draft={"checkpoint": "folder"}) == {
        ("draft.base", "draft.checkpoint"): {"draft": Effect.RESTART}
    }


def test_a_default_that_is_written_out_is_another_argument() -> None:
    assert steps_to(draft={"base": "hub:a/b", "max_debt": 64}) == {
        ("draft.max_debt",): {"draft": Effect.RESTART}
    }


def test_a_step_is_told_in_one_line_for_each_thing_that_changes() -> None:
    [step] = config_changes(changed(()), changed(["targets.a.num_replicas"]))
    assert str(step).startswith("targets.a.num_replicas: application target-a: in place")
    assert str(ConfigChange(("a", "b"), ())) == "a, b: nothing changes"
