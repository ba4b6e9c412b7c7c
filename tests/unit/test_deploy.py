"""The rendered Serve config: what restarts what (design: one application each)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from s2d_ray.config import AppConfig, load_config
from s2d_ray.serve import deploy
from s2d_ray.serve.deploy import render
from s2d_ray.serve.places import labels_of_all
from s2d_ray.serve.router_settings import RouterSettings

QUICKSTART = load_config(Path(__file__).parents[2] / "deployments" / "quickstart.yaml")


def _apps(config: AppConfig, *, gpus: bool = False) -> dict[str, dict[str, Any]]:
    rendered = render(config, cluster_has_gpus=gpus)
    return {app["name"]: app for app in rendered["applications"]}


def _with_target(**changes: object) -> AppConfig:
    written = QUICKSTART.model_dump(mode="json", exclude_unset=True)
    written["targets"]["smollm2-135m"].update(changes)
    return AppConfig.model_validate(written)


def test_serve_accepts_what_is_rendered() -> None:
    """Ray's own schema validates it, and only the router has a route."""
    schema = ServeDeploySchema.model_validate(render(QUICKSTART, cluster_has_gpus=False))
    routes = {app.name: app.route_prefix for app in schema.applications}
    assert routes == {
        "draft": None,
        "target-smollm2-135m": None,
        "target-smollm2-135m-int8": None,
        "router": "/",
    }


def test_arguments_hold_only_what_a_user_wrote() -> None:
    """Defaults stay out, so a new default restarts nothing."""
    arguments = _apps(QUICKSTART)["target-smollm2-135m"]["args"]
    assert set(arguments["target"]) == {"model"}


def test_a_changed_target_changes_its_application_alone() -> None:
    """Every other application's arguments are the same bytes as before."""
    before, after = _apps(QUICKSTART), _apps(_with_target(max_batch=4))
    changed = {name for name in before if before[name]["args"] != after[name]["args"]}
    assert changed == {"target-smollm2-135m"}


def test_the_number_of_replicas_is_changed_in_place() -> None:
    """It stands under `deployments:`, and no application's arguments know it."""
    before, after = _apps(QUICKSTART), _apps(_with_target(num_replicas=3))
    assert all(before[name]["args"] == after[name]["args"] for name in before)
    assert after["target-smollm2-135m"]["deployments"][0]["num_replicas"] == 3


def test_an_update_starts_a_successor_first_unless_there_is_no_room() -> None:
    """Ray reads the option as a percentage, rounded up; it replaces no replica when it changes."""
    apps = _apps(_with_target(surge=False))
    surges = {
        name: apps[name]["deployments"][0]["max_surge_percent"]
        for name in ("target-smollm2-135m", "target-smollm2-135m-int8")
    }
    assert surges == {"target-smollm2-135m": 0, "target-smollm2-135m-int8": 20}
    assert apps["target-smollm2-135m"]["args"] == _apps(QUICKSTART)["target-smollm2-135m"]["args"]


def test_gpus_are_asked_for_where_a_device_needs_one() -> None:
    """`auto` takes a GPU of a cluster that has some; `cpu` never does."""
    apps = _apps(_with_target(device="cpu"), gpus=True)
    options = {
        name: apps[name]["deployments"][0]["ray_actor_options"]["num_gpus"]
        for name in ("target-smollm2-135m", "target-smollm2-135m-int8")
    }
    assert options == {"target-smollm2-135m": 0, "target-smollm2-135m-int8": 1}
    assert apps["draft"]["args"]["num_gpus"] == 1
    assert _apps(QUICKSTART)["draft"]["args"]["num_gpus"] == 0


def test_a_target_over_several_gpus_asks_for_all_of_them() -> None:
    """Per replica, and only where it runs on GPUs at all."""

    def asked(*, gpus: bool) -> int:
        app = _apps(_with_target(num_gpus=4), gpus=gpus)["target-smollm2-135m"]
        return int(app["deployments"][0]["ray_actor_options"]["num_gpus"])

    assert asked(gpus=True) == 4
    assert asked(gpus=False) == 0


def test_a_placement_is_asked_for_by_label_and_the_one_node_of_s2d_serve_has_it() -> None:
    """In no application's arguments, so that the args of others do not know it either."""
    config = _with_target(placement="big")
    before, after = _apps(QUICKSTART), _apps(config)
    assert all(before[name]["args"] == after[name]["args"] for name in before)
    [deployment] = after["target-smollm2-135m"]["deployments"]
    wanted = deployment["ray_actor_options"]["label_selector"]
    assert wanted == {"s2d-ray/big": "true"}
    assert wanted.items() <= labels_of_all(config).items()
    assert {"s2d-ray/router", "s2d-ray/control", "s2d-ray/draft"} <= labels_of_all(config).keys()


@pytest.mark.parametrize(
    "change",
    [
        {"routing": {"splits": {"prod": {"smollm2-135m": 1.0}}}},
        {"plan": {"max_proposal": 1}},
        {"draft": None},
        {"targets": {"another": {"model": "folder"}}},
    ],
)
def test_what_routers_go_by_is_changed_while_they_run(change: dict[str, Any]) -> None:
    """It is in no arguments, only in what Serve hands to running replicas."""
    written = QUICKSTART.model_dump(mode="json", exclude_unset=True)
    if "targets" in change:
        change = {"targets": written["targets"] | change["targets"]}
    before, after = _apps(QUICKSTART), _apps(AppConfig.model_validate(written | change))
    assert before["router"]["args"] == after["router"]["args"]
    settings = [apps["router"]["deployments"][0]["user_config"] for apps in (before, after)]
    assert settings[0] != settings[1]
    for told in settings:
        routing = RouterSettings.model_validate(told).to_routing()
        assert routing.states.keys() == told["targets"].keys()


TENANCY = {"file": "tenants.yaml", "state_dir": "state"}


def _with_http(**http: object) -> AppConfig:
    written = QUICKSTART.model_dump(mode="json", exclude_unset=True)
    written["http"].update(http)
    return AppConfig.model_validate(written)


def _with_tenancy(**http: object) -> AppConfig:
    written = _with_http(**http).model_dump(mode="json", exclude_unset=True)
    return AppConfig.model_validate({**written, "tenancy": TENANCY})


def test_tenants_bring_a_ledger_without_a_route_and_change_the_router_alone() -> None:
    """Targets and draft are as before, so that tenants can be added while they run."""
    before, after = _apps(QUICKSTART), _apps(_with_tenancy())
    assert after.keys() - before.keys() == {"ledger"}
    assert after["ledger"]["route_prefix"] is None
    assert {name for name in before if before[name] != after[name]} == {"router"}
    ServeDeploySchema.model_validate(render(_with_tenancy(), cluster_has_gpus=False))


def test_the_ledger_refuses_before_serve_would_queue() -> None:
    apps = _apps(_with_tenancy(max_open_requests=80))
    router = apps["router"]["deployments"][0]
    assert apps["ledger"]["args"]["max_open"] == 70 < router["max_ongoing_requests"] == 80
    assert apps["ledger"]["deployments"][0]["max_ongoing_requests"] > 80
    assert apps["ledger"]["args"]["batch_slots"] == dict.fromkeys(QUICKSTART.targets, 8)


def test_the_number_of_routers_and_what_they_take_are_changed_in_place() -> None:
    before, after = _apps(QUICKSTART), _apps(_with_http(num_routers=2, max_open_requests=9))
    assert before["router"]["args"] == after["router"]["args"]
    assert after["router"]["deployments"][0]["num_replicas"] == 2


def test_routers_and_targets_drain_longer_than_the_longest_request() -> None:
    """A new length of it is taken over in place, but for the router, which holds requests to it."""
    before, after = _apps(QUICKSTART), _apps(_with_http(max_request_s=100))
    for name in ("router", "target-smollm2-135m"):
        assert before[name]["deployments"][0]["graceful_shutdown_timeout_s"] > 600
        assert 100 < after[name]["deployments"][0]["graceful_shutdown_timeout_s"] < 110
    changed = {name for name in before if before[name]["args"] != after[name]["args"]}
    assert changed == {"router"}


class _Serve:
    """Serve with a router that takes some looks to drain, or never does."""

    def __init__(self, num_looks: float) -> None:
        self.left = num_looks
        self.ended: list[tuple[str, bool]] = []

    def status(self) -> SimpleNamespace:
        self.left -= bool(self.ended)
        return SimpleNamespace(applications={"router": None} if self.left > 0 else {})

    def delete(self, name: str, _blocking: bool) -> None:
        self.ended.append((name, _blocking))


@pytest.mark.parametrize(
    ("num_looks", "timeout_s", "left"),
    [(5, 60.0, 0), (float("inf"), 0.0, float("inf")), (0, 60.0, 0)],
    ids=["it drains", "it does not", "there is none"],
)
def test_the_router_ends_before_the_rest_and_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, num_looks: float, timeout_s: float, left: float
) -> None:
    """Until its requests have ended, or for so long."""
    fake = _Serve(num_looks)
    monkeypatch.setattr(deploy, "serve", fake)
    monkeypatch.setattr(deploy, "POLL_S", 0.0)
    deploy.end_router(timeout_s)
    assert fake.left == left
    assert fake.ended == ([("router", False)] if num_looks else [])
