"""What a router is told while it runs, and what it then goes by. No cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from s2d_ray.config import parse_config
from s2d_ray.core.cascade import Plan
from s2d_ray.errors import ConfigError, UnknownModel
from s2d_ray.serve import router as router_module
from s2d_ray.serve.apps import Ingress, RouterArgs
from s2d_ray.serve.deploy import render
from s2d_ray.serve.replicas import Replicas, ReplicaWatch
from s2d_ray.serve.router import Router
from s2d_ray.serve.router_settings import RouterSettings
from s2d_ray.serve.target import TargetStatus

ROUTED = """
targets: {a: {model: x, max_batch: 4, num_replicas: 3}, b: {model: y}}
plan: {exit_thresholds: [0.25], max_proposal: 6}
routing:
  targets: {a: {cost: 8, decode_tokens_per_s: 5}}
  splits: {prod: {a: 3, b: 1}}
  plans:
    - {target: a, max_load_s: 2, plan: {max_proposal: 1}}
    - {task: code, plan: {exit_thresholds: [0.5], min_match: 0}}
"""


def settings_of(text: str) -> dict[str, Any]:
    """What Serve hands to the router for a config."""
    apps = render(parse_config(text, "test"), cluster_has_gpus=False)["applications"]
    told: dict[str, Any] = apps[-1]["deployments"][0]["user_config"]
    return told


def test_what_is_written_becomes_what_the_policy_knows() -> None:
    """A row of the plan table keeps of the config's plan what it does not set."""
    routing = RouterSettings.model_validate(settings_of(ROUTED)).to_routing()
    assert routing.plan == Plan((0.25,), max_proposal=6)
    first, second = routing.rules.plans
    assert (first.plan, first.max_load) == (Plan((0.25,), max_proposal=1), 2.0)
    assert (second.plan, second.target) == (Plan((0.5,), max_proposal=6, min_match=0), None)
    a, b = routing.states["a"], routing.states["b"]
    assert (a.cost, a.decode_tokens_per_s, a.slots) == (8.0, 5.0, 12)
    assert (b.cost, b.decode_tokens_per_s, b.slots) == (1.0, 20.0, 8)
    assert routing.names()["prod"] == ["a", "b"]


def test_a_router_takes_over_targets_and_forgets_those_that_left() -> None:
    """What the API says of a target stays as it was while it is there."""
    router = Router(lambda target: None)
    router.take(RouterSettings.model_validate(settings_of(ROUTED)))
    created = router.targets()["a"].created
    assert router.routing().has_auto
    fewer = settings_of("targets: {c: {model: z}, a: {model: x}}")
    router.take(RouterSettings.model_validate(fewer))
    assert list(router.targets()) == ["c", "a"]
    assert router.targets()["a"].created == created
    assert not router.routing().names()
    with pytest.raises(UnknownModel):
        asyncio.run(router.detokenize("b", [1]))


def test_settings_that_cannot_be_leave_the_last_ones_in_force() -> None:
    """Serve would replace a router that raises; only one that has none yet may."""

    async def run() -> None:
        ingress = Ingress(RouterArgs())
        broken = settings_of(ROUTED) | {"plan": {"max_proposal": "many"}}
        with pytest.raises(ConfigError, match=r"plan: max_proposal"):
            await ingress.reconfigure(broken)
        await ingress.reconfigure(settings_of(ROUTED))
        for wrong in (broken, {"targets": 3}):
            await ingress.reconfigure(wrong)
            assert ingress._router.routing().plan.max_proposal == 6

    asyncio.run(run())


def test_who_lives_is_told_without_a_wait_for_who_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While targets are asked again, what was heard last is what counts."""
    dead: set[str] = set()
    answers = asyncio.Event()

    async def ask(app: str) -> object | None:
        await answers.wait()
        return None if app in dead else TargetStatus(True, "closed", 0)

    async def run() -> None:
        router = Router(lambda target: None)
        router.take(RouterSettings.model_validate(settings_of(ROUTED)))
        monkeypatch.setattr(router, "_ask", ask)
        monkeypatch.setattr(router, "_replicas", ReplicaWatch(lambda names: {}))
        monkeypatch.setattr(router_module, "STATUS_AGE_S", -1.0)  # nothing is fresh
        answers.set()
        assert list(await router.alive()) == ["a", "b"]
        dead.add("target-b")
        answers.clear()
        for _ in range(2):
            assert list(await router.alive()) == ["a", "b"]
            await asyncio.sleep(0)
        answers.set()
        assert router._looking is not None
        await router._looking
        assert list(await router.alive()) == ["a"]
        router.take(RouterSettings.model_validate(settings_of("targets: {b: {model: y}}")))
        assert list(await router.alive()) == []

    asyncio.run(run())


def test_health_tells_replicas_as_the_controller_counts_them_and_wakes_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it does not know is left out."""
    asked = []

    async def ask(app: str) -> object | None:
        asked.append(app)
        return TargetStatus(True, "closed", 5) if app.startswith("target-") else None

    async def run(known: dict[str, Replicas]) -> dict[str, dict[str, float]]:
        router = Router(lambda target: None)
        router.take(RouterSettings.model_validate(settings_of(ROUTED)))
        monkeypatch.setattr(router, "_ask", ask)
        monkeypatch.setattr(router, "_replicas", ReplicaWatch(lambda names: known))
        health = await router.health()
        return {name: dict(target.counters) for name, target in health.targets.items()}

    told = asyncio.run(run({"a": Replicas(3), "b": Replicas(asleep=True)}))
    assert (told["a"]["replicas"], told["a"]["queue_depth"]) == (3, 5)
    assert told["b"] == {"replicas": 0}
    assert "target-b" not in asked
    assert "replicas" not in asyncio.run(run({}))["b"]
