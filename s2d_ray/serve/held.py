"""What the ledger holds for a target, as the target's replicas ask for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from s2d_ray.policy.ledger import Held

logger = logging.getLogger("ray.serve")

ANSWER_S = 1.0
FIND_EVERY_S = 30.0
"""Without tenants there is no ledger, and looking for one costs Serve's controller a call."""
NOTHING = Held(0, 0)


class HeldByLedger:
    """Asks the ledger's application, if there is one. find: -> its handle; raises without one."""

    def __init__(self, target: str, find: Callable[[], Any]) -> None:
        self._target = target
        self._find = find
        self._handle: Any = None
        self._find_at_s = 0.0

    async def now(self) -> Held:
        """What it holds; nothing without a ledger, and while it does not answer."""
        response = None
        try:
            if self._handle is None:
                if time.monotonic() < self._find_at_s:
                    return NOTHING
                self._find_at_s = time.monotonic() + FIND_EVERY_S
                self._handle = self._find()
            response = self._handle.held.remote(self._target)
            async with asyncio.timeout(ANSWER_S):
                held: Held = await response
            return held
        except Exception as error:  # not there, starting, dying: all mean "ask again"
            logger.debug("the ledger does not tell what it holds: %r", error)
            if response is not None:
                response.cancel()
            return NOTHING
