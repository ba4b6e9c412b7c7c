"""Serve's rhythm around the scaling rule: samples, look-back, delays, factors, scaling from zero.

Written after `ray/serve/autoscaling_policy.py` and `_private/autoscaling_state.py` of Ray 2.60; a
test holds the decisions beside Serve's own functions.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from s2d_ray.config import PUSH_INTERVAL_S
from s2d_ray.policy.scaling import ScalingRule, TargetLoad, wanted_replicas

RECORDED = 0.2
"""Of the look-back: the time between two samples."""

CONTROL_S = 0.1
"""Serve's controller decides so often."""

EPSILON_S = 1e-6


@dataclass(frozen=True)
class Rhythm:
    """As Serve's `AutoscalingConfig` names them. push_s: between two reports to its controller."""

    look_back_s: float = 30.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    push_s: float = PUSH_INTERVAL_S

    @property
    def record_s(self) -> float:
        """Time between two samples."""
        return min(RECORDED * self.look_back_s, self.push_s)


def scaled(wanted: float, running: int, rhythm: Rhythm) -> int:
    """What is wanted after the factors, which stretch the step from the replicas that run."""
    if running == 0:
        return math.ceil(wanted)
    step = wanted - running
    factor = rhythm.upscaling_factor if step > 0 else rhythm.downscaling_factor
    count = math.ceil(running + factor * step)
    if count == running and math.ceil(wanted) < running:
        return running - 1  # rounding up must not keep it from shrinking
    return count


class Delay:
    """A change of direction counts once it has been wanted, without a break, for its delay."""

    def __init__(self, rhythm: Rhythm) -> None:
        self._rhythm = rhythm
        self._direction = 0
        self._since_s = 0.0

    def decide(self, count: int, target: int, now_s: float) -> int:
        """The new target, which is the old one while the delay lasts."""
        direction = (count > target) - (count < target)
        if direction != self._direction:
            self._direction, self._since_s = direction, now_s
        if direction < 0 and target > 1:
            count = max(1, count)  # to zero only from one
        if direction == 0 or now_s - self._since_s + EPSILON_S < self._delay_s(direction, target):
            return target
        self._direction = 0
        return count

    def _delay_s(self, direction: int, target: int) -> float:
        rhythm = self._rhythm
        if direction > 0:
            return rhythm.upscale_delay_s
        if target == 1 and rhythm.downscale_to_zero_delay_s is not None:
            return rhythm.downscale_to_zero_delay_s
        return rhythm.downscale_delay_s


class Autoscaler:
    """Decides for one target, from samples that reach it as often as they are pushed."""

    def __init__(self, rule: ScalingRule, rhythm: Rhythm) -> None:
        self._rule = rule
        self._rhythm = rhythm
        self._delay = Delay(rhythm)
        self._recorded: deque[tuple[float, TargetLoad]] = deque()
        self._seen: list[tuple[float, TargetLoad]] = []

    def record(self, load: TargetLoad, now_s: float) -> None:
        """A sample is taken, where the requests are."""
        self._recorded.append((now_s, load))
        while self._recorded[0][0] < now_s - self._rhythm.look_back_s:
            self._recorded.popleft()

    def push(self) -> None:
        """Samples reach the controller."""
        self._seen = list(self._recorded)

    def decide(self, running: int, target: int, opened_s: float, now_s: float) -> int:
        """Replicas that there should be, of which `target` run or start, and `running` run.

        opened_s: when the newest replica came; Serve's look-back begins where all have samples.
        """
        load = self._load(opened_s, now_s)
        if running == 0 and load.running + load.queued > 0:
            count = max(math.ceil(self._rhythm.upscaling_factor), target)
        else:
            count = max(0, scaled(wanted_replicas(load, self._rule), running, self._rhythm))
            if running > 0 or count == 0:
                count = self._delay.decide(count, target, now_s)
        return min(max(count, self._rule.min_replicas), self._rule.max_replicas)

    def _load(self, opened_s: float, now_s: float) -> TargetLoad:
        """Means over the look-back, but of what the ledger holds the newest value."""
        seen = [sample for sample in self._seen if sample[0] >= opened_s] or self._seen
        if not seen:
            return TargetLoad()
        newest = seen[-1][1]
        return TargetLoad(
            _mean([(time_s, load.running) for time_s, load in seen], now_s),
            _mean([(time_s, load.queued) for time_s, load in seen], now_s),
            newest.held,
            _mean([(time_s, load.outstanding_tokens) for time_s, load in seen], now_s),
            newest.held_tokens,
        )


def _mean(samples: Sequence[tuple[float, float]], now_s: float) -> float:
    """Each sample counts until the next one, the newest until now."""
    ends = [*(time_s for time_s, _ in samples[1:]), now_s]
    total_s = now_s - samples[0][0]
    if total_s <= 0:
        return samples[-1][1]
    return (
        sum((end_s - time_s) * value for end_s, (time_s, value) in zip(ends, samples, strict=True))
        / total_s
    )
