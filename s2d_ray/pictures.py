"""The library that draws pictures, which not every installation has."""

from __future__ import annotations

from s2d_ray.errors import RunError


def need_pictures() -> None:
    """Raises RunError if the library that draws them is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise RunError("matplotlib is missing; install it: pip install 's2d-ray[train]'") from None
    matplotlib.use("agg")
