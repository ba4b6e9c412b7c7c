"""What routers and the ledger tell each other. Plain data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.grants import Grant
from s2d_ray.policy.keys import Caller, KeyTable
from s2d_ray.policy.ledger import Granted
from s2d_ray.policy.limits import Refusal
from s2d_ray.policy.usage import UsageRecord

TOKEN_ROUTES = ("/tokenize", "/detokenize")
"""Each has a queue of its own at the ledger, named as no target can be, beside those of targets."""


@dataclass(frozen=True)
class Ended:
    """A grant that is over: the tokens it used, and what is written down of it.

    record: None if its client had gone before it was granted.
    """

    grant: Grant
    used: int
    record: UsageRecord | None


@dataclass(frozen=True)
class Sync:
    """What a router tells once a second, and at once when a request has ended.

    grants: all its open ones. key_version: of the keys it goes by, "" for none yet.
    """

    router: str
    grants: tuple[Grant, ...]
    ended: tuple[Ended, ...]
    key_version: str


class LedgerPort(Protocol):
    """The ledger as routers reach it. Every call may fail while the ledger is away."""

    async def admit(self, ask: Ask, wait_s: float) -> Granted | Refusal:
        """Wait for a request's turn, for at most `wait_s`. Cancelling it forgets the request."""

    async def sync(self, sync: Sync) -> KeyTable | None:
        """Take over what a router tells; -> the keys, if it goes by others."""

    async def usage(self, caller: Caller) -> dict[str, Any]:
        """Usage of a tenant, or for an operator of all."""

    async def revoke(self, key_id: str, caller: Caller) -> int | None:
        """Revoke a key; -> how many routers have confirmed it, None if there is no such key."""
