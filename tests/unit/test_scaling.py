"""Autoscaling at its edges: what Serve's controller knows, what documents and replicas tell."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
from ray import serve
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingConfig, AutoscalingContext
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatusOverview,
    ServeStatus,
)

from s2d_ray.config import BY_REQUESTS, BY_TOKENS, PUSH_INTERVAL_S, AppConfig, parse_config
from s2d_ray.errors import ConfigError
from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.ledger import Bounds, Held, Ledger
from s2d_ray.policy.limits import Limits
from s2d_ray.serve import replicas, scaling
from s2d_ray.serve.deploy import render
from s2d_ray.serve.held import NOTHING, HeldByLedger
from s2d_ray.serve.ledger_link import running_slots
from s2d_ray.serve.replicas import Replicas, ReplicaWatch, name_of, target_app
from s2d_ray.serve.strict import troubles_of

DEPLOYMENT = DeploymentID("target", "target-a")


def context(
    *,
    replicas: int = 1,
    running: float = 0.0,
    queued: float = 0.0,
    told: dict[str, list[tuple[float, float]]] | None = None,
    target: float = 4.0,
) -> AutoscalingContext:
    """As Serve's controller makes it. told: of each metric (time, value), one per replica."""
    ids = [ReplicaID(f"r{number}", DEPLOYMENT) for number in range(replicas)]
    samples = {
        metric: {
            name: [TimeStampedValue(0.0, 99.0), TimeStampedValue(*told)]
            for name, told in zip(ids, pairs, strict=True)
        }
        for metric, pairs in (told or {}).items()
    }
    return AutoscalingContext(
        deployment_id=DEPLOYMENT,
        deployment_name="target",
        app_name="target-a",
        current_num_replicas=replicas,
        target_num_replicas=replicas,
        running_replicas=ids,
        total_num_requests=running + queued,
        total_queued_requests=queued,
        aggregated_metrics={
            metric: {name: series[-1].value for name, series in found.items()}
            for metric, found in samples.items()
        },
        raw_metrics=samples,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=9,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=AutoscalingConfig(
            min_replicas=0, max_replicas=9, target_ongoing_requests=target, look_back_period_s=11
        ),
    )


def test_what_is_held_counts_once_however_many_replicas_tell_it() -> None:
    """Each tells of the whole target; the newest value counts, also where it is the smallest."""
    seen = context(
        replicas=3,
        running=6.0,
        queued=1.0,
        told={
            "held_requests": [(5.0, 30.0), (7.0, 5.0), (6.0, 20.0)],
            "held_tokens": [(5.0, 300.0), (7.0, 50.0), (6.0, 200.0)],
            "outstanding_tokens": [(5.0, 10.0), (7.0, 20.0), (6.0, 30.0)],
        },
    )
    load = scaling.load_of(seen)
    assert (load.running, load.queued, load.held) == (6.0, 1.0, 5.0)
    assert (load.outstanding_tokens, load.held_tokens) == (60.0, 50.0)
    assert scaling.by_requests(seen) == (3, {})


def test_tokens_are_counted_against_tokens() -> None:
    told = {"held_tokens": [(1.0, 30.0)], "outstanding_tokens": [(1.0, 71.0)]}
    assert scaling.by_tokens(context(running=1.0, told=told, target=50.0)) == (3, {})


@pytest.mark.parametrize("policy", [scaling.by_requests, scaling.by_tokens])
def test_before_any_replica_has_told_anything_requests_alone_count(policy: Any) -> None:
    assert policy(context()) == (0, {})
    assert policy(context(replicas=0, queued=1.0)) == (1, {})


def test_the_controller_can_load_the_policies_from_bytes_and_loads_no_torch() -> None:
    """Serve pickles their module by value; what the bytes need must be there, and be light."""
    policies = []
    for path in (BY_REQUESTS, BY_TOKENS):
        config = AutoscalingConfig(look_back_period_s=11, policy={"policy_function": path})
        policies.append(config.policy.get_serialized_policy_def())
    code = (
        "import pickle, sys, ray.cloudpickle; found = pickle.load(sys.stdin.buffer);"
        "print(*(pickle.loads(policy).__name__ for policy in found));"
        "print('torch' in sys.modules, 's2d_ray.policy.scaling' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=pickle.dumps(policies),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split() == ["by_requests", "by_tokens", "False", "True"]


def config_of(autoscaling: dict[str, Any], **target: Any) -> AppConfig:
    tree = {"targets": {"a": {"model": "m", "autoscaling": autoscaling, **target}}}
    return parse_config(json.dumps(tree), "test")


def target_of(config: AppConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The target's application but for its one deployment, and this one."""
    (app,) = (
        app
        for app in render(config, cluster_has_gpus=False)["applications"]
        if app["name"] == "target-a"
    )
    (deployment,) = app.pop("deployments")
    return app, deployment


def test_serve_takes_every_option_and_defaults_to_three_quarters_of_a_batch() -> None:
    """Validated by Serve's own model, which must keep what we wrote."""
    _, deployment = target_of(config_of({"min_replicas": 0, "max_replicas": 3}, max_batch=5))
    assert "num_replicas" not in deployment
    options = deployment["autoscaling_config"]
    taken = AutoscalingConfig.model_validate(options).model_dump(exclude_unset=True)
    assert options.keys() <= taken.keys()
    assert taken["policy"]["policy_function"] == BY_REQUESTS
    assert (taken["target_ongoing_requests"], taken["metrics_interval_s"]) == (3, PUSH_INTERVAL_S)
    assert (taken["min_replicas"], taken["max_replicas"]) == (0, 3)
    assert deployment["graceful_shutdown_timeout_s"] == 605


@pytest.mark.parametrize(
    "changed",
    [
        {"min_replicas": 2},
        {"max_replicas": 9},
        {"target_ongoing_requests": 3},
        {"upscale_delay_s": 0, "downscale_delay_s": 1, "downscale_to_zero_delay_s": 2},
        {"upscaling_factor": 2, "downscaling_factor": 0.5},
        {"look_back_period_s": 30},
    ],
)
def test_bounds_delays_and_factors_are_changed_in_place(changed: dict[str, Any]) -> None:
    """Serve's code version knows import path, arguments and the policy; these stay the same."""
    before, old = target_of(config_of({"max_replicas": 4}))
    after, new = target_of(config_of({"max_replicas": 4} | changed))
    assert before == after
    assert old != new
    assert old["autoscaling_config"]["policy"] == new["autoscaling_config"]["policy"]


def test_without_the_section_a_number_of_replicas_is_fixed() -> None:
    _, deployment = target_of(parse_config('{"targets": {"a": {"model": "m"}}}', "test"))
    assert deployment["num_replicas"] == 1
    assert "autoscaling_config" not in deployment


@pytest.mark.parametrize(
    ("autoscaling", "target", "named"),
    [
        ({"max_replicas": 2, "target_ongoing_requests": 81}, {}, "target_ongoing_requests: 81"),
        ({"max_replicas": 2, "min_replicas": 3}, {}, "min_replicas: 3 is more than"),
        (
            {"max_replicas": 2, "target_ongoing_requests": 1, "target_outstanding_tokens": 1},
            {},
            "leave out target_ongoing_requests",
        ),
        ({"max_replicas": 2}, {"num_replicas": 2}, "num_replicas: autoscaling chooses"),
        ({"max_replicas": 2, "look_back_period_s": 2}, {}, "look_back_period_s"),
        ({}, {}, "max_replicas"),
    ],
)
def test_what_would_never_scale_is_refused_by_name(
    autoscaling: dict[str, Any], target: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        config_of(autoscaling, **target)


def document() -> tuple[dict[str, Any], dict[str, Any]]:
    """A Serve document and the target's deployment in it."""
    whole = render(config_of({"max_replicas": 2}), cluster_has_gpus=False)
    return whole, whole["applications"][0]["deployments"][0]


def test_our_own_document_is_right() -> None:
    assert troubles_of(document()[0]) == []


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"policy": {}},
        {"policy": {"policy_function": "ray.serve.autoscaling_policy:default_autoscaling_policy"}},
    ],
    ids=["left out", "empty", "Serve's own"],
)
def test_a_document_without_our_policy_is_named(policy: dict[str, Any]) -> None:
    """Ray restores its own in silence where YAML leaves it out."""
    whole, deployment = document()
    del deployment["autoscaling_config"]["policy"]
    deployment["autoscaling_config"] |= policy
    (trouble,) = troubles_of(whole)
    where = "applications.0.deployments.0.autoscaling_config.policy.policy_function: must be"
    assert trouble.startswith(where)


def test_automatic_numbers_and_policies_of_applications_are_named() -> None:
    whole, deployment = document()
    del deployment["autoscaling_config"]
    deployment["num_replicas"] = "auto"
    whole["applications"][0]["autoscaling_policy"] = {"policy_function": BY_REQUESTS}
    first, second = troubles_of(whole)
    assert first.startswith("applications.0.autoscaling_policy: ")
    assert second.startswith("applications.0.deployments.0.autoscaling_config.policy")


def test_a_document_that_never_scales_is_named() -> None:
    whole, deployment = document()
    deployment["max_ongoing_requests"] = 5
    (trouble,) = troubles_of(whole)
    assert "target_ongoing_requests: 6 is more than max_ongoing_requests, 5" in trouble


def test_a_misspelt_key_of_the_autoscaler_is_named() -> None:
    whole, deployment = document()
    deployment["autoscaling_config"]["upscale_delay"] = 1
    (trouble,) = troubles_of(whole)
    assert trouble == "applications.0.deployments.0.autoscaling_config.upscale_delay: unknown key"


def test_the_ledger_holds_what_more_room_would_let_run() -> None:
    """Not what waits for its own tenant's limit, nor for another target; every text counts."""
    limits = {"capped": Limits(max_running=2), "free": Limits(max_running=8)}
    ledger = Ledger(Bounds(100, 10_000), limits, "life", 0.0)
    ledger.set_slots({"t": 0, "u": 0})
    asks = [
        *(Ask(f"c{number}", "capped", "t", 10, 60.0) for number in range(5)),
        Ask("three", "free", "t", 100, 60.0, num_texts=3),
        Ask("other", "free", "u", 1_000, 60.0),
    ]
    for ask in asks:
        ledger.admit(ask, 0.0)
    assert ledger.held("t") == Held(2 + 3, 2 * 10 + 100)
    assert ledger.held("u") == Held(1, 1_000)
    assert ledger.held("nobody") == NOTHING
    ledger.set_slots({"t": 8})
    ledger.decide(0.0)
    assert ledger.held("t") == NOTHING  # three of `capped` still wait, for `capped`


def status(**apps: DeploymentStatusOverview) -> ServeStatus:
    overview = {
        target_app(name): ApplicationStatusOverview(
            status=ApplicationStatus.RUNNING,
            message="",
            last_deployed_time_s=0.0,
            deployments={"target": deployment},
        )
        for name, deployment in apps.items()
    }
    return ServeStatus(applications=overview)


def deployment(state: str, **replicas: int) -> DeploymentStatusOverview:
    made: Any = DeploymentStatusOverview
    return made(status=state, status_trigger="", replica_states=replicas, message="")  # type: ignore[no-any-return]


def test_a_sleeping_target_has_one_slot_and_one_that_starts_has_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So one request wakes it, and those behind it wait in the ledger."""
    found = status(
        asleep=deployment("HEALTHY"),
        starting=deployment("UPSCALING", STARTING=1),
        restarting=deployment("UNHEALTHY"),
        two=deployment("HEALTHY", RUNNING=2, STARTING=1),
    )
    monkeypatch.setattr(serve, "status", lambda: found)
    names = ("asleep", "starting", "restarting", "two", "missing")
    slots = running_slots(dict.fromkeys(names, 8))
    assert slots == {"asleep": 1, "starting": 0, "restarting": 0, "two": 16, "missing": 0}
    assert name_of(target_app("two")) == "two"


def test_one_request_passes_a_slot_of_a_sleeping_target_whatever_its_texts() -> None:
    ledger = Ledger(Bounds(100, 10_000), {"a": Limits(max_running=99)}, "life", 0.0)
    ledger.set_slots({"t": 1})
    for number in range(3):
        ledger.admit(Ask(f"r{number}", "a", "t", 1, 60.0, num_texts=4), 0.0)
    assert len(ledger.decide(0.0)) == 1
    assert ledger.held("t").num_texts == 8


def test_while_the_controller_hangs_nobody_sleeps_and_one_thread_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else every request for the state would leave a thread behind."""
    monkeypatch.setattr(replicas, "LOOK_TIMEOUT_S", 0.02)
    free, looks = threading.Event(), []

    def look(names: Any) -> dict[str, Replicas]:
        looks.append(tuple(names))
        free.wait()
        return {"a": Replicas(asleep=True), "b": Replicas(1)}

    async def run() -> None:
        watch = ReplicaWatch(look)
        try:
            assert await watch.now(["a", "b"]) == {}
            assert await watch.now(["a", "b"]) == {}
            assert looks == [("a", "b")]
        finally:
            free.set()
            monkeypatch.undo()
        assert await watch.now(["a", "b", "c"]) == {"a": Replicas(asleep=True), "b": Replicas(1)}

    asyncio.run(run())


def test_a_controller_that_fails_means_nobody_sleeps() -> None:
    def look(names: Any) -> dict[str, Replicas]:
        raise ConnectionError(str(names))

    assert asyncio.run(ReplicaWatch(look).now(["a"])) == {}


class Response:
    """What a handle's call returns."""

    def __init__(self, held: Held | Exception) -> None:
        self._held = held
        self.cancelled = False

    def __await__(self) -> Any:
        yield from asyncio.sleep(0).__await__()
        if isinstance(self._held, Exception):
            raise self._held
        return self._held

    def cancel(self) -> None:
        self.cancelled = True


class LedgerHandle:
    """The ledger's application, as a replica calls it."""

    def __init__(self) -> None:
        self.answer: Held | Exception = Held(3, 40)
        self.asked: list[str] = []
        self.last: Response | None = None

    @property
    def held(self) -> Any:
        return self

    def remote(self, target: str) -> Response:
        self.asked.append(target)
        self.last = Response(self.answer)
        return self.last


def test_a_replica_tells_what_the_ledger_holds_and_nothing_while_it_is_away() -> None:
    handle = LedgerHandle()
    held = HeldByLedger("a", lambda: handle)
    assert asyncio.run(held.now()) == Held(3, 40)
    handle.answer = ConnectionError("away")
    assert asyncio.run(held.now()) == NOTHING
    assert handle.last is not None
    assert handle.last.cancelled
    handle.answer = Held(1, 2)
    assert asyncio.run(held.now()) == Held(1, 2)
    assert handle.asked == ["a"] * 3


def test_without_a_ledger_it_is_not_looked_for_at_every_report() -> None:
    looked = []

    def find() -> Any:
        looked.append(1)
        raise RuntimeError("no application named ledger")

    held = HeldByLedger("a", find)
    assert [asyncio.run(held.now()) for _ in range(3)] == [NOTHING] * 3
    assert len(looked) == 1
