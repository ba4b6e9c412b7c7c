"""The draft manager on actors that are scripts: stuck, silent and dying drafts are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from s2d_ray.serve import draft_manager
from s2d_ray.serve.draft_actor import DraftHealth
from s2d_ray.serve.draft_manager import DraftManager
from s2d_ray.serve.link import DraftLink
from tests.metering import Told

OLDER = 1
"""Protocol that the drafts here speak."""

CONFIG = {"checkpoint": "unused", "health_timeout_s": 0.05, "start_timeout_s": 0.05}
Script = Callable[[], Awaitable[DraftHealth]]


class _Health:
    def __init__(self, script: Script) -> None:
        self._script = script

    def options(self, *, concurrency_group: str) -> _Health:
        assert concurrency_group == "health"
        return self

    def remote(self) -> Awaitable[DraftHealth]:
        return self._script()


class _Actor:
    def __init__(self, script: Script) -> None:
        self.health = _Health(script)


def _health(stuck_for_s: float = 0.0) -> DraftHealth:
    return DraftHealth(2**22 + 1, "elsewhere", stuck_for_s, OLDER, exit_layers=(4, 8))


async def _well() -> DraftHealth:
    return _health()


async def _stuck() -> DraftHealth:
    return _health(stuck_for_s=99.0)


async def _silent() -> DraftHealth:
    await asyncio.sleep(3600)
    return _health()


async def _dead() -> DraftHealth:
    raise RuntimeError("the actor died")


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The actors the manager has killed; its periods are short."""
    killed: list[Any] = []
    monkeypatch.setattr(draft_manager.ray, "kill", lambda actor, no_restart: killed.append(actor))
    monkeypatch.setattr(draft_manager, "node_id", lambda: "here")
    monkeypatch.setattr(draft_manager, "HEALTH_PERIOD_S", 0.001)
    monkeypatch.setattr(draft_manager, "FIRST_BACKOFF_S", 0.001)
    return killed


async def _first_link(manager: DraftManager) -> DraftLink:
    while True:
        link = await manager.draft()
        if link is not None:
            return link
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("trouble", [_stuck, _silent, _dead])
def test_a_draft_in_trouble_is_killed_and_another_made(killed: list[Any], trouble: Script) -> None:
    """Two bad actors in a row, then a good one: the link names the good one alone."""
    made: list[_Actor] = []

    def create(config: dict[str, Any]) -> _Actor:
        assert config == CONFIG
        made.append(_Actor(trouble if len(made) < 2 else _well))
        return made[-1]

    async def live() -> DraftLink:
        manager = DraftManager(CONFIG, create, Told().meter)
        await _first_link(manager)
        while len(made) < 3:  # a stuck draft may be seen alive for a moment
            await asyncio.sleep(0.001)
            await _first_link(manager)
        status = await manager.status()
        assert status.alive
        assert status.num_starts == 3
        assert status.exit_layers == (4, 8)
        assert status.last_error
        return await _first_link(manager)

    link = asyncio.run(live())
    assert link.actor is made[2]
    assert link.protocol_version == OLDER, "what the actor says, not what the manager knows"
    assert killed[:2] == made[:2]


def test_a_draft_that_dies_later_gets_another_epoch(killed: list[Any]) -> None:
    """A target tells two lives apart by their epochs."""
    answers = iter([_well, _well, _dead])

    async def mortal() -> DraftHealth:
        return await next(answers, _well)()

    async def live() -> tuple[DraftLink, DraftLink]:
        manager = DraftManager(CONFIG, lambda config: _Actor(mortal), Told().meter)
        first = await _first_link(manager)
        while (second := await _first_link(manager)).epoch == first.epoch:
            await asyncio.sleep(0.001)
        return first, second

    first, second = asyncio.run(live())
    assert second.epoch > first.epoch
    assert len(killed) >= 1
