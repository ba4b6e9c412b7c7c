"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers import ByFile

gc.disable()  # until all is imported
# Before anything loads torch: one thread is quickest for tiny products, and tests that need more
# say so, as replicas do. Where loops share the cores, OpenMP threads that spin while they wait
# would take them from each other.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # what needs a cluster says so; none starts by the way
}

if (worker := os.environ.get("PYTEST_XDIST_WORKER", "gw0")) != "gw0":
    # CPU engines take turns on a file in the folder for temporary files: tiny ones of the theorems
    # would wait at every forward for the real ones of the cluster, which the first worker runs.
    own = Path(tempfile.gettempdir()) / f"s2d-{worker}"
    own.mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(own)


def pytest_collection_finish() -> None:
    """What the imports made stays to the end: collections are quicker if they never look at it."""
    gc.freeze()
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="module")
def two_threads() -> Iterator[None]:
    """For what must hold where the threads of a forward share its work."""
    from tests.tiny import threads

    with threads(2):
        yield


@pytest.fixture
def int8_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 also in layers of tiny models, which are else too small for it."""
    monkeypatch.setattr("s2d_ray.models.linear.INT8_FROM", 0)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The quickstart's real checkpoint; the first use on a machine downloads and converts it."""
    from s2d_ray.models.sources import resolve
    from s2d_ray.models_cli import QUICKSTART

    return resolve(QUICKSTART)
