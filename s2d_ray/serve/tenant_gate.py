"""The gate with tenants: keys are checked here, admission is asked of the ledger.

One task tells the ledger once a second, and whenever a request has ended, which grants are open
and which are over, and takes over its keys. What the ledger did not hear is told again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from s2d_ray.errors import RequestError
from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.grants import Grant
from s2d_ray.policy.keys import Caller, KeyTable
from s2d_ray.policy.ledger import Granted
from s2d_ray.policy.limits import Reason, Refusal
from s2d_ray.policy.local_share import LocalShare
from s2d_ray.serve.gate import Ticket, TokensCall, Visit
from s2d_ray.serve.ledger_messages import Ended, LedgerPort, Sync
from s2d_ray.serve.tenant_ticket import LedgerTicket
from s2d_ray.serve.tenant_tokens import tokens_turn

logger = logging.getLogger("ray.serve")

SYNC_S = 1.0
SYNC_TIMEOUT_S = 3.0
RETRY_S = 0.2
AWAY_S = 10.0
"""Requests wait so long for a ledger that does not answer."""
MAX_UNTOLD = 200
"""A router with so many ends to tell of admits nothing more on its own word."""


class TenantGate:
    """One router's side of admission. `ledger` is reached anew for each call.

    local_texts: that may run at the same time on this router's word while the ledger is away.
    """

    def __init__(self, ledger: LedgerPort, max_wait_s: float, local_texts: int = 0) -> None:
        self._ledger = ledger
        self._max_wait_s = max_wait_s
        self._name = uuid.uuid4().hex
        self._share = LocalShare(local_texts, self._name)
        self._open: dict[str, Grant] = {}
        self._ended: list[Ended] = []
        self._keys: KeyTable | None = None
        self._heard_s = time.monotonic()
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        self._syncing: asyncio.Task[None] | None = None

    async def caller_of(self, authorization: str | None) -> Caller:
        """Whose key a request carries. Raises: Unauthorized, or Overloaded if it cannot tell."""
        self._keep_in_touch()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AWAY_S):
                while self._keys is None:
                    self._heard.clear()
                    await self._heard.wait()
        if self._keys is None:
            raise _away()
        return self._keys.caller_of(authorization, time.time())

    def ticket(self, visit: Visit) -> Ticket:
        """A ticket; the ledger is asked when the first of its texts is to run."""
        return LedgerTicket(self, visit)

    def turn(self, call: TokensCall) -> contextlib.AbstractAsyncContextManager[Mapping[str, str]]:
        """Entered when it is the call's turn, with headers of its answer. Raises: RequestError."""
        return tokens_turn(self, call)

    async def usage(self, caller: Caller) -> dict[str, Any]:
        """Usage that a caller may see. Raises: Overloaded."""
        usage: dict[str, Any] = await self._call(self._ledger.usage(caller))
        return usage

    async def revoke(self, key_id: str, caller: Caller) -> int | None:
        """Revoke a key everywhere; -> routers that confirmed, None for an unknown key."""
        confirmed: int | None = await self._call(self._ledger.revoke(key_id, caller))
        return confirmed

    async def admit(self, ask: Ask) -> Granted:
        """Wait for a request's turn. Raises: RequestError if it does not come.

        A ledger that dies loses the request, which asks the next one; after `AWAY_S` of silence
        the router's own share is left. Cancelling takes the request out of the queue.
        """
        ask = dataclasses.replace(ask, arrived_s=time.monotonic())
        deadline_s = ask.arrived_s + self._max_wait_s
        while True:
            decision = await self._ask_once(ask, deadline_s - time.monotonic())
            if isinstance(decision, Granted):
                self._open[decision.grant.id] = decision.grant
                return decision
            if isinstance(decision, Refusal):
                raise decision.error()
            await asyncio.sleep(RETRY_S)

    def end(self, ended: Ended) -> None:
        """A grant is over. The ledger is told at once, and again until it has heard."""
        del self._open[ended.grant.id]
        self._ended.append(ended)
        self._wake.set()

    async def _ask_once(self, ask: Ask, wait_s: float) -> Granted | Refusal | None:
        """One question; None if the ledger was lost meanwhile.

        Each is a request of its own: an answer to an earlier one may still be on its way.
        """
        if wait_s <= 0:
            return Refusal(ask.id, Reason.DEADLINE)
        fresh = dataclasses.replace(ask, id=uuid.uuid4().hex)
        question = asyncio.ensure_future(self._ledger.admit(fresh, wait_s))
        try:
            while not question.done():
                if time.monotonic() - self._heard_s > AWAY_S:
                    await self._withdraw(question)
                    return self._admit_alone(ask)
                await asyncio.wait([question], timeout=SYNC_S)
        except asyncio.CancelledError:
            await self._withdraw(question)
            raise
        if question.cancelled() or question.exception() is not None:
            logger.debug("the ledger lost a question: it ended by itself")
            return None
        return question.result()

    def _admit_alone(self, ask: Ask) -> Granted | Refusal:
        """A decision without the ledger; it hears of the grant once it is back."""
        own = dataclasses.replace(ask, id=uuid.uuid4().hex)
        has_told = len(self._ended) < MAX_UNTOLD
        grant = self._share.admit(own, self._open.values()) if has_told else None
        if grant is None:
            return Refusal(ask.id, Reason.LEDGER_AWAY)
        return Granted(grant, time.monotonic() - ask.arrived_s, ())

    async def _withdraw(self, question: asyncio.Future[Granted | Refusal]) -> None:
        """Take a question back; one that was granted meanwhile is over."""
        question.cancel()
        await asyncio.wait([question])
        if question.cancelled() or question.exception() is not None:
            return
        decision = question.result()
        if isinstance(decision, Granted):
            self._ended.append(Ended(decision.grant, 0, None))
            self._wake.set()

    async def _call(self, question: Any) -> Any:
        try:
            async with asyncio.timeout(AWAY_S):
                return await question
        except RequestError:
            raise
        except Exception as error:
            logger.warning("the ledger does not answer: %r", error)
            raise _away() from None

    def _keep_in_touch(self) -> None:
        if self._syncing is None or self._syncing.done():
            self._syncing = asyncio.get_running_loop().create_task(self._sync_forever())

    async def _sync_forever(self) -> None:
        is_away = False
        while True:
            try:
                async with asyncio.timeout(SYNC_TIMEOUT_S):
                    await self._sync()
            except Exception as error:  # starting, dying, away: all mean "again soon"
                level = logging.DEBUG if is_away else logging.WARNING
                logger.log(level, "the ledger was not reached: %r", error)
                is_away = True
                await asyncio.sleep(RETRY_S)
                continue
            is_away = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SYNC_S):
                    await self._wake.wait()

    async def _sync(self) -> None:
        self._wake.clear()
        ended = tuple(self._ended)
        version = self._keys.version if self._keys else ""
        keys = await self._ledger.sync(Sync(self._name, tuple(self._open.values()), ended, version))
        del self._ended[: len(ended)]
        self._heard_s = time.monotonic()
        if keys is not None:
            self._keys = keys
            self._wake.set()  # so that whoever waits for our confirmation has it soon
        self._heard.set()


def _away() -> RequestError:
    return Refusal("", Reason.LEDGER_AWAY).error()
