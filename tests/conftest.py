"""Fixtures that more than one folder of tests needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2d_ray.models.sources import resolve
from s2d_ray.models_cli import QUICKSTART


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The quickstart's real checkpoint; the first use on a machine downloads and converts it."""
    return resolve(QUICKSTART)
