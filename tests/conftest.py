"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

gc.disable()  # until all is imported
# Before anything loads torch: target and draft loops share the cores here, and OpenMP threads that
# spin while they wait would take them from each other. Ray would set one thread without the first.
os.environ |= {
    "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # what needs a cluster says so; none starts by the way
}

from s2d_ray.models.sources import resolve  # noqa: E402  (the variables come first)
from s2d_ray.models_cli import QUICKSTART  # noqa: E402


def pytest_collection_finish() -> None:
    """What the imports made stays to the end: collections are quicker if they never look at it."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def int8_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 also in layers of tiny models, which are else too small for it."""
    monkeypatch.setattr("s2d_ray.models.linear.INT8_FROM", 0)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The quickstart's real checkpoint; the first use on a machine downloads and converts it."""
    return resolve(QUICKSTART)
