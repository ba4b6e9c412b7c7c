"""What an operator sets of speculation reaches the steering of a replica, and mistakes do not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from s2d_ray.core.calibration import AcceptanceModel
from s2d_ray.engine.controller import Controller
from s2d_ray.engine.steering import Settings
from s2d_ray.errors import ConfigError
from s2d_ray.serve.reins import Reins
from tests.plan_files import plan_file


class Told:
    """A steering that remembers what it was told last."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.controller: Controller | None = None
        self.classes: list[str] = []
        self.num_follows = 0

    def take(self, settings: Settings) -> None:
        self.settings = settings

    def follow(
        self,
        controller: Controller | None,
        acceptance: Mapping[str, AcceptanceModel] = MappingProxyType({}),
    ) -> None:
        self.controller = controller
        self.classes = list(acceptance)
        self.num_follows += 1


class Replica:
    """Reins of target `small`, and a plan file for it."""

    def __init__(self, path: Path, target: str = "small") -> None:
        self.told = Told()
        steering: Any = self.told
        self.reins = Reins(target, steering)
        self.path = path
        self.write(plan_file())

    def write(self, tree: Any) -> None:
        """Another file under the same name."""
        other = self.path.with_suffix(".new")
        other.write_text(json.dumps(tree))
        other.rename(self.path)

    def take(self, **control: Any) -> None:
        self.reins.take({"control": control, "plans": str(self.path)})
        self.reins.look()


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path / "plans.json")


def test_settings_reach_the_steering_and_wrong_ones_are_refused_by_key(replica: Replica) -> None:
    replica.take(frozen=True)
    assert replica.told.settings == Settings(frozen=True, share=0.02)
    with pytest.raises(ConfigError, match=r"control: share: .*0\.25"):
        replica.take(share=0.9)
    assert replica.told.settings == Settings(frozen=True, share=0.02)


def test_a_plan_file_is_followed_and_one_that_is_replaced_too(replica: Replica) -> None:
    replica.take()
    first = replica.told.controller
    assert first is not None
    assert first.class_of("code") == "code"
    assert first.class_of("poetry") == "chat"
    assert replica.told.classes[0] == "chat", "which serves other classes"
    assert replica.reins.exit_layers == (2, 4)
    replica.reins.look()
    replica.take(frozen=True)
    assert replica.told.controller is first, "its experience would be lost"
    changed = plan_file()
    del changed["targets"]["small"]["classes"]["chat"]
    replica.write(changed)
    replica.reins.look()
    second = replica.told.controller
    assert second is not None
    assert second.class_of("poetry") == "code"


def test_a_plan_file_that_cannot_be_used_leaves_the_last_good_one(replica: Replica) -> None:
    replica.take()
    before = replica.told.controller
    for tree in ({"version": 99}, "no mapping"):
        replica.write(tree)
        replica.reins.look()
        assert replica.told.controller is before
    replica.path.unlink()
    replica.reins.look()
    assert replica.told.controller is before


def test_without_a_plan_file_or_without_the_target_in_it_there_is_no_controller(
    replica: Replica, tmp_path: Path
) -> None:
    replica.take()
    replica.reins.take({"control": {}})
    replica.reins.look()
    assert replica.told.controller is None
    other = Replica(tmp_path / "other.json", target="large")
    other.take()
    assert other.told.controller is None
