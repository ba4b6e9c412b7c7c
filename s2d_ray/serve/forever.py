"""Doing something again and again, whatever becomes of it, and how often metrics are told so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger("ray.serve")

TELL_EVERY_S = 1.0
MOST_TENANTS = 50
"""Tenants with a label of their own in metrics; the others are one."""


async def forever(period_s: float, act: Callable[[], Awaitable[None]]) -> None:
    """Await `act` and pause, until cancelled. What it raises is logged."""
    while True:
        try:
            await act()
        except Exception:  # whatever it was, the next turn may go better
            logger.exception("%s failed", getattr(act, "__qualname__", act))
        await asyncio.sleep(period_s)
