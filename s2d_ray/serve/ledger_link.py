"""The ledger over Serve: how routers reach it, and how it learns what runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve

from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.keys import Caller, KeyTable
from s2d_ray.policy.ledger import Granted
from s2d_ray.policy.limits import Refusal
from s2d_ray.serve.ledger_messages import Sync
from s2d_ray.serve.replicas import replicas_of


class ServeLedger:
    """The ledger's application, found lazily: it may start after the router."""

    def __init__(self) -> None:
        self._handle: Any = None

    async def admit(self, ask: Ask, wait_s: float) -> Granted | Refusal:
        """Wait for a request's turn, for at most `wait_s`. Cancelling it forgets the request."""
        decision: Granted | Refusal = await self._call("admit", ask, wait_s)
        return decision

    async def sync(self, sync: Sync) -> KeyTable | None:
        """Take over what a router tells; -> the keys, if it goes by others."""
        keys: KeyTable | None = await self._call("sync", sync)
        return keys

    async def usage(self, caller: Caller) -> dict[str, Any]:
        """Usage of a tenant, or for an operator of all."""
        usage: dict[str, Any] = await self._call("usage", caller)
        return usage

    async def revoke(self, key_id: str, caller: Caller) -> int | None:
        """Revoke a key; -> how many routers have confirmed it, None if there is no such key."""
        confirmed: int | None = await self._call("revoke", key_id, caller)
        return confirmed

    async def _call(self, method: str, *arguments: object) -> Any:
        if self._handle is None:
            self._handle = serve.get_app_handle("ledger")
        response = getattr(self._handle, method).remote(*arguments)
        try:
            return await response
        finally:
            response.cancel()  # nothing, if it has ended


def running_slots(batch_slots: Mapping[str, int]) -> dict[str, int]:
    """Batch slots of all running replicas of each target, as Serve counts them. Blocks.

    A target that sleeps has one: the request that takes it wakes the target, the others wait.
    """
    slots = {}
    for name, replicas in replicas_of(batch_slots).items():
        slots[name] = 1 if replicas.asleep else batch_slots[name] * replicas.num_running
    return slots
