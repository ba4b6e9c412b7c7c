"""What a target replica tells Serve about its health, without Serve."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from s2d_ray.serve.target import STUCK_AFTER_S, TargetReplica


def replica(silent_s: float) -> TargetReplica:
    """A replica around an engine whose thread has not moved for so long."""
    made: Any = object.__new__(TargetReplica)
    made._engine = SimpleNamespace(status=lambda: SimpleNamespace(silent_s=silent_s))
    made._handover = SimpleNamespace(asked=lambda: None)
    return made


@pytest.mark.parametrize("silent_s", [0.0, STUCK_AFTER_S])
def test_a_replica_whose_thread_moves_is_well(silent_s: float) -> None:
    replica(silent_s).check_health()


@pytest.mark.parametrize("silent_s", [STUCK_AFTER_S + 0.1, float("inf")])
def test_a_replica_whose_thread_is_stuck_or_dead_is_not(silent_s: float) -> None:
    """Serve then replaces it."""
    with pytest.raises(RuntimeError, match="has not moved for"):
        replica(silent_s).check_health()
