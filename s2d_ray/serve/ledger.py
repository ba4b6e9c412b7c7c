"""The ledger's replica: the pure ledger with a clock, its waiting callers, its files. No torch.

It alone watches the tenants file, and it alone writes to the state folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from s2d_ray.config import TenancyConfig
from s2d_ray.observe.meter import FewNames, Meter, TargetGauges
from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.grants import REMEMBERED
from s2d_ray.policy.keys import Caller, KeyTable
from s2d_ray.policy.ledger import Bounds, Granted, Held, Ledger
from s2d_ray.policy.limits import Refusal
from s2d_ray.policy.usage import RefusalCounts, UsageTotals
from s2d_ray.serve.forever import MOST_TENANTS, forever
from s2d_ray.serve.ledger_messages import TOKEN_ROUTES, Ended, Sync
from s2d_ray.serve.ledger_state import Saved, StateFolder
from s2d_ray.tenants_watch import WatchedTenants

logger = logging.getLogger("ray.serve")

DECIDE_S = 0.05
LOOK_S = 1.0
SAVE_S = 10.0
ROUTER_GONE_S = 5.0
"""A router that has not been heard for so long is not waited for."""
CONFIRM_S = 8.0
TOKEN_CALLS = 8
"""Calls of each route of tokens at a time; 1.25 as many are granted, as texts are."""
LAST_GOOD = "tenants.yaml"
SlotsOf = Callable[[], Mapping[str, int]]


class LedgerReplica:
    """Answers routers. `slots_of` tells the batch slots of all running replicas, and may block."""

    def __init__(
        self, tenancy: dict[str, Any], max_open: int, slots_of: SlotsOf, meter: Meter
    ) -> None:
        config = TenancyConfig.model_validate(tenancy)
        folder = Path(config.state_dir)
        self._folder = StateFolder(folder, prints=config.usage_to_stdout)
        self._watched = WatchedTenants(Path(config.file), folder / LAST_GOOD)
        saved = self._folder.load()
        self._ledger = Ledger(
            Bounds(max_open, config.max_waiting_bytes),
            self._watched.tenants.limits(),
            uuid.uuid4().hex,
            time.monotonic(),
            saved.snapshot if saved else None,
        )
        self._totals = UsageTotals.resumed(saved.usage if saved else {})
        self._refused = RefusalCounts()
        self._revoked = set(saved.revoked if saved else ())
        self._slots_of = slots_of
        self._meter, self._gauges = meter, TargetGauges(meter)
        self._label_of = FewNames(MOST_TENANTS)
        self._keys = self._table()
        self._answers: dict[str, asyncio.Future[Granted | Refusal]] = {}
        self._routers: dict[str, tuple[float, str]] = {}
        # A record that is told twice is counted once, whichever ledger hears it.
        self._recorded = deque(saved.recorded if saved else (), REMEMBERED)
        if saved is not None:
            self._count_what_only_the_log_has()
        self._save()
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(forever(DECIDE_S, self._decide_and_wait)),
            loop.create_task(forever(LOOK_S, self._look)),
            loop.create_task(forever(SAVE_S, self._save_and_wait)),
        ]

    async def admit(self, ask: Ask, wait_s: float) -> Granted | Refusal:
        """Wait for a request's turn, for at most `wait_s`. Cancelling it forgets the request."""
        now_s = time.monotonic()
        ask = dataclasses.replace(ask, deadline_s=now_s + wait_s, arrived_s=now_s)
        answer: asyncio.Future[Granted | Refusal] = asyncio.get_running_loop().create_future()
        self._answers[ask.id] = answer
        try:
            self._ledger.admit(ask, now_s)
            self._decide()
            decision = await answer
        except asyncio.CancelledError:
            self._give_up(ask.id, answer)
            raise
        finally:
            del self._answers[ask.id]
        if isinstance(decision, Refusal):
            self._refused.add(ask.tenant, ask.target, decision)
            self._totals.add_refusal(ask.tenant, ask.target)
            self._meter.tell(
                "refusals",
                tenant=self._label_of(ask.tenant),
                target=ask.target,
                reason=decision.reason.value,
            )
        return decision

    async def sync(self, sync: Sync) -> KeyTable | None:
        """Take over what a router tells; -> the keys, if it goes by others."""
        now_s = time.monotonic()
        for ended in sync.ended:
            self._ledger.finish(ended.grant, ended.used, now_s)
            self._record(ended)
        self._ledger.renew(sync.grants, now_s)
        self._routers[sync.router] = (now_s, sync.key_version)
        self._decide()
        return None if sync.key_version == self._keys.version else self._keys

    async def usage(self, caller: Caller) -> dict[str, Any]:
        """Usage of a tenant, or for an operator of all."""
        names = self._totals.sums if caller.is_operator else [caller.name]
        return self._totals.of(list(names))

    async def revoke(self, key_id: str, caller: Caller) -> int | None:
        """Revoke a key, and wait until every router has confirmed it; -> how many there are."""
        if key_id not in self._keys.keys:
            return None
        self._revoked.add(key_id)
        self._keys = self._table()
        self._folder.audit(caller, "revoke", key_id)
        self._save()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_S):
                while any(version != self._keys.version for version in self._versions()):
                    await asyncio.sleep(DECIDE_S)
        return sum(version == self._keys.version for version in self._versions())

    async def held(self, target: str) -> Held:
        """What waits for a target; its replicas ask, and report it to Serve's autoscaler."""
        return self._ledger.held(target)

    def check_health(self) -> None:
        """Serve replaces the replica if one of its tasks has ended."""
        if any(task.done() for task in self._tasks):
            raise RuntimeError("a task of the ledger has ended")

    def _versions(self) -> list[str]:
        """Of the keys that each router goes by."""
        since_s = time.monotonic() - ROUTER_GONE_S
        self._routers = {n: seen for n, seen in self._routers.items() if seen[0] >= since_s}
        return [version for _, version in self._routers.values()]

    def _table(self) -> KeyTable:
        version = f"{self._watched.version}+{len(self._revoked)}"
        return self._watched.tenants.key_table(version, self._revoked)

    def _decide(self) -> None:
        for decision in self._ledger.decide(time.monotonic()):
            name = decision.grant.id if isinstance(decision, Granted) else decision.id
            answer = self._answers.get(name)
            if answer is not None and not answer.done():
                answer.set_result(decision)

    def _give_up(self, name: str, answer: asyncio.Future[Granted | Refusal]) -> None:
        """The caller has gone, perhaps just when its turn came."""
        now_s = time.monotonic()
        self._ledger.cancel(name, now_s)
        if answer.done() and not answer.cancelled():
            decision = answer.result()
            if isinstance(decision, Granted):
                self._ledger.finish(decision.grant, 0, now_s)

    def _record(self, ended: Ended) -> None:
        if ended.record is not None and ended.grant.id not in self._recorded:
            record = dataclasses.replace(ended.record, grant_id=ended.grant.id)
            self._recorded.append(record.grant_id)
            self._totals.add(record)
            self._folder.usage(record)

    def _count_what_only_the_log_has(self) -> None:
        """The ledger before this one died behind its last snapshot: what it wrote down since is no
        longer in the sums, and routers that had no answer will tell it again.
        """
        known = set(self._recorded)
        for record in self._folder.last_records(REMEMBERED):
            if record.grant_id and record.grant_id not in known:
                self._recorded.append(record.grant_id)
                self._totals.add(record)

    async def _decide_and_wait(self) -> None:
        self._decide()

    async def _look(self) -> None:
        """Take over another version of the tenants file, and the slots there are now."""
        trouble = self._watched.trouble
        if self._watched.look():
            self._ledger.set_tenants(self._watched.tenants.limits(), time.monotonic())
            self._keys = self._table()
            self._folder.audit(None, "tenants file", self._watched.version)
        if self._watched.trouble not in (None, trouble):
            logger.error("the tenants file stays as it was: %s", self._watched.trouble)
        slots = await asyncio.to_thread(self._slots_of)
        self._ledger.set_slots({**dict.fromkeys(TOKEN_ROUTES, TOKEN_CALLS), **slots})
        self._decide()
        self._tell(slots)

    def _tell(self, targets: Iterable[str]) -> None:
        """Show what waits, and what is wrong, among the metrics."""
        self._gauges.tell("held_requests", dict.fromkeys(targets, 0) | self._ledger.waiting())
        self._meter.tell("ledger_lost_records", self._folder.num_lost)
        is_broken = self._watched.trouble is not None
        self._meter.tell("ledger_tenants_file_broken", float(is_broken))

    async def _save_and_wait(self) -> None:
        self._save()

    def _save(self) -> None:
        self._folder.refused(self._refused)
        self._folder.save(
            Saved(
                self._ledger.snapshot(time.monotonic()),
                self._totals.sums,
                sorted(self._revoked),
                list(self._recorded),
            )
        )
