"""What an operator sets of speculation, handed to the steering of a target replica. No Ray."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2d_ray.config import ControlConfig, check_section
from s2d_ray.engine.controller import Controller
from s2d_ray.plan_file import PlanFile, TargetPlans
from s2d_ray.serve.plan_watch import WatchedPlans

if TYPE_CHECKING:
    from s2d_ray.engine.steering import Steering


class Reins:
    """Of one replica of `target`. `look` may block on a disk; `take` does not.

    exit_layers: of the draft that the followed plans are made for.
    """

    def __init__(self, target: str, steering: Steering) -> None:
        self._target = target
        self._steering = steering
        self._watched: WatchedPlans | None = None
        self._followed: PlanFile | None = None
        self.exit_layers: tuple[int, ...] = ()

    def take(self, settings: Mapping[str, Any]) -> None:
        """Go by a new `user_config`. Raises ConfigError, and goes on by the old one."""
        from s2d_ray.engine.steering import Settings

        control = check_section(ControlConfig, settings.get("control", {}), "control")
        self._steering.take(Settings(control.frozen, control.share))
        path = settings.get("plans")
        if path is None:
            self._watched = None
        elif self._watched is None or self._watched.path != Path(path):
            self._watched = WatchedPlans(Path(path))

    def look(self) -> None:
        """Follow the plan file as it is now; the last good version if it cannot be used."""
        watched = self._watched
        if watched is not None:
            watched.look()
        file = None if watched is None else watched.file
        if file is not self._followed:
            self._followed = file
            plans = None if file is None else file.targets.get(self._target)
            if file is None or plans is None:
                self.exit_layers = ()
                self._steering.follow(None)
            else:
                self.exit_layers = file.draft.exit_layers
                acceptance = {name: plans.classes[name].model() for name in _classes(plans)}
                self._steering.follow(controller_of(plans), acceptance)


def controller_of(plans: TargetPlans) -> Controller:
    """A controller that knows nothing yet but the calibration. Its first class serves others."""
    candidates = {name: plans.classes[name].kept() for name in _classes(plans)}
    return Controller(candidates, plans.costs, random.Random())


def _classes(plans: TargetPlans) -> list[str]:
    """Classes of task, the one first that serves those without plans."""
    first, _ = plans.of("")
    return list(dict.fromkeys((first, *plans.classes)))
