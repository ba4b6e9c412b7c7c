"""The dashboards, a module for each page."""

from __future__ import annotations

from s2d_ray.observe.pages import capacity, draft, overview, target, tenants

DASHBOARDS = (
    overview.DASHBOARD,
    target.DASHBOARD,
    draft.DASHBOARD,
    tenants.DASHBOARD,
    capacity.DASHBOARD,
)
