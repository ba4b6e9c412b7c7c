"""The ledger: who may run now. Buckets, queues and grants of all tenants, as a state machine.

Events go in with a time of one clock, decisions come out of `decide`; it has no clock, no tasks and
no Ray. Routers keep bodies and connections, ask, and tell when a request has ended. A grant that
has lapsed is taken back: others may run, its tokens stay charged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from s2d_ray.policy.accounts import Account, amounts
from s2d_ray.policy.fair_queue import Ask, FairQueue
from s2d_ray.policy.grants import Grant, Grants
from s2d_ray.policy.limits import Allowance, Limits, Reason, Refusal
from s2d_ray.policy.waiting import Waiting

RECOVERY_S = 2.0
"""A restarted ledger grants nothing for this long, while routers tell of their open grants."""

SLOTS_AHEAD = 1.25
"""Grants per batch slot: so few wait in the replicas' own first-come-first-served queues."""


@dataclass(frozen=True)
class Granted:
    """The decision that a request may run. queue_s: how long it waited."""

    grant: Grant
    queue_s: float
    allowances: tuple[Allowance, ...]


@dataclass(frozen=True)
class Held:
    """Texts that wait for one target, and their tokens."""

    num_texts: int
    tokens: int


@dataclass(frozen=True)
class Bounds:
    """What the ledger takes in all, whatever the tenants' own limits add up to.

    max_open: requests waiting and running. max_waiting_bytes: of the bodies that routers hold.
    """

    max_open: int
    max_waiting_bytes: int


@dataclass(frozen=True)
class Snapshot:
    """What a ledger leaves to the next one: levels of buckets, and the grants they paid for.

    levels: by tenant and kind, as if those that wait had never asked. paid: ids of open grants,
    and of those of earlier ledgers that no router has told of yet. closed: ids of the last ones
    that ended or lapsed, which are settled.
    """

    levels: dict[str, dict[str, float]]
    paid: list[str]
    closed: list[str] = field(default_factory=list)


class Ledger:
    """Admission for all targets. `counters` count decisions since the start."""

    def __init__(
        self,
        bounds: Bounds,
        tenants: Mapping[str, Limits],
        life: str,
        now_s: float,
        snapshot: Snapshot | None = None,
    ) -> None:
        """With a snapshot, buckets go on where they were, and grants wait for `RECOVERY_S`.

        life: unlike that of any earlier ledger.
        """
        self._bounds = bounds
        self._life = life
        self._opens_s = now_s if snapshot is None else now_s + RECOVERY_S
        self._grants = Grants(life, snapshot.paid, snapshot.closed) if snapshot else Grants(life)
        levels = snapshot.levels if snapshot else {}
        self._accounts = {
            name: Account(limits, now_s, levels.get(name, {})) for name, limits in tenants.items()
        }
        self._queues: dict[str, FairQueue] = {}
        self._waiting = Waiting()
        self._slots: dict[str, int] = {}
        self._refusals: list[Refusal] = []
        self.counters: Counter[str] = Counter()

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def running(self, target: str) -> int:
        """Granted texts of a target that have not ended."""
        return self._grants.running(target)

    def waiting(self) -> Counter[str]:
        """Requests that wait, by target."""
        return Counter(ask.target for ask in self._waiting)

    def held(self, target: str) -> Held:
        """What waits for a target and could run if it had room.

        Not what waits for its tenant's own `max_running`: more room would not let it run.
        """
        num_texts: Counter[str] = Counter()
        tokens = 0
        for ask in self._waiting:
            account = self._accounts[ask.tenant]
            if ask.target == target and account.has_room(num_texts[ask.tenant] + ask.num_texts):
                num_texts[ask.tenant] += ask.num_texts
                tokens += ask.tokens
        return Held(num_texts.total(), tokens)

    def set_tenants(self, tenants: Mapping[str, Limits], now_s: float) -> None:
        """Take over a new version of the tenants' limits; what runs goes on."""
        for name, limits in tenants.items():
            if name in self._accounts:
                self._accounts[name].change(limits, now_s)
            else:
                self._accounts[name] = Account(limits, now_s, {})
                self._accounts[name].num_running = self._grants.running_of(name)
        for name in self._accounts.keys() - tenants.keys():
            del self._accounts[name]
        queues, self._queues = self._queues, {}
        for ask in [ask for queue in queues.values() for ask in queue]:
            if ask.tenant in self._accounts:
                self._push(ask)
            else:
                self._waiting.remove(ask)
                self._refuse(ask, Reason.UNKNOWN_TENANT, now_s)

    def set_slots(self, batch_slots: Mapping[str, int]) -> None:
        """Tell the batch slots of all running replicas of each target."""
        self._slots = {target: int(SLOTS_AHEAD * slots) for target, slots in batch_slots.items()}

    def admit(self, ask: Ask, now_s: float) -> None:
        """Queue a request, or refuse it; the decision comes out of `decide`, now or later.

        Its tokens and its place in the minute are taken here, so that what waits is paid for.
        """
        reason = self._objection(ask)
        account = self._accounts.get(ask.tenant)
        if account is not None and reason is None:
            reason = account.shortage(ask.tokens, now_s)
        if account is None or reason is not None:
            self._refuse(ask, reason or Reason.UNKNOWN_TENANT, now_s)
            return
        account.take(ask.tokens, now_s)
        account.num_waiting += 1
        self._waiting.add(ask)
        self._push(ask)

    def cancel(self, ask_id: str, now_s: float) -> None:
        """Forget a request that waits; it has used nothing. Unknown ids are fine."""
        ask = self._waiting.get(ask_id)
        if ask is not None:
            self._leave(ask, now_s)
            self.counters["cancelled"] += 1

    def finish(self, grant: Grant, used: int, now_s: float) -> None:
        """End a grant and settle its tokens: refund what was not used. Twice is as good as once."""
        if not self._is_open(grant, now_s):
            return
        self._grants.end(grant)
        account = self._accounts.get(grant.tenant)
        if account is not None:
            account.num_running -= grant.num_texts
            account.settle(grant.tokens, used, now_s)
        self.counters["finished"] += 1

    def renew(self, grants: Iterable[Grant], now_s: float) -> None:
        """A router tells of its open grants. Those of another life are adopted: of an earlier
        ledger, or of the router itself. One that has lapsed or ended does not come back.
        """
        for grant in grants:
            if self._is_open(grant, now_s):
                self._grants.renew(grant, now_s)

    def decide(self, now_s: float) -> list[Granted | Refusal]:
        """All decisions that are due: refusals, expired requests, lapsed grants, new grants."""
        for grant in self._grants.lapsed(now_s):
            self._lapse(grant)
        for ask in self._waiting.expired(now_s):
            self._leave(ask, now_s)
            self._refuse(ask, Reason.DEADLINE, now_s)
        refusals, self._refusals = self._refusals, []
        granted = list(self._granted(now_s)) if now_s >= self._opens_s else []
        return [*refusals, *granted]

    def allowances(self, tenant: str, now_s: float) -> tuple[Allowance, ...]:
        """What is left to a tenant."""
        account = self._accounts.get(tenant)
        return account.allowances(now_s) if account else ()

    def snapshot(self, now_s: float) -> Snapshot:
        """What the next ledger needs."""
        levels = {name: account.levels(now_s) for name, account in self._accounts.items()}
        for ask in self._waiting:
            for kind in levels[ask.tenant]:
                levels[ask.tenant][kind] += amounts(ask.tokens)[kind]
        return Snapshot(levels, self._grants.paid(), self._grants.closed())

    def _objection(self, ask: Ask) -> Reason | None:
        """Why a request cannot be taken whatever its tenant has left."""
        if len(self._grants) + len(self._waiting) >= self._bounds.max_open:
            return Reason.SERVICE_FULL
        if self._waiting.num_bytes + ask.num_bytes > self._bounds.max_waiting_bytes:
            return Reason.SERVICE_FULL
        account = self._accounts.get(ask.tenant)
        if account is None:
            return Reason.UNKNOWN_TENANT
        return account.objection(ask)

    def _granted(self, now_s: float) -> Iterable[Granted]:
        for target, queue in self._queues.items():
            while (ask := queue.head(self._may_run)) is not None and self._fits(ask):
                queue.grant(ask)
                self._waiting.remove(ask)
                account = self._accounts[ask.tenant]
                account.num_waiting -= 1
                account.num_running += ask.num_texts
                grant = Grant(ask.id, ask.tenant, target, ask.tokens, ask.num_texts, self._life)
                self._grants.begin(grant, now_s)
                self.counters["granted"] += 1
                yield Granted(grant, now_s - ask.arrived_s, account.allowances(now_s))

    def _may_run(self, ask: Ask) -> bool:
        return self._accounts[ask.tenant].has_room(ask.num_texts)

    def _fits(self, ask: Ask) -> bool:
        running = self.running(ask.target)
        slots = self._slots.get(ask.target, 0)
        # One with more texts than there are slots runs alone.
        return running + ask.num_texts <= slots or (running == 0 and slots > 0)

    def _push(self, ask: Ask) -> None:
        limits = self._accounts[ask.tenant].limits
        queue = self._queues.setdefault(ask.target, FairQueue())
        queue.push(ask, limits.band, limits.weight)

    def _leave(self, ask: Ask, now_s: float) -> None:
        self._queues[ask.target].drop(ask)
        self._waiting.remove(ask)
        account = self._accounts[ask.tenant]
        account.num_waiting -= 1
        account.give_back(ask.tokens, now_s)

    def _refuse(self, ask: Ask, reason: Reason, now_s: float) -> None:
        account = self._accounts.get(ask.tenant)
        if account is None:
            self._refusals.append(Refusal(ask.id, reason))
        else:
            retry_s = account.retry_s(reason, ask.tokens, now_s)
            self._refusals.append(Refusal(ask.id, reason, retry_s, account.allowances(now_s)))
        self.counters[f"refused_{reason.value}"] += 1

    def _is_open(self, grant: Grant, now_s: float) -> bool:
        if self._grants.is_strange(grant):
            self._adopt(grant, now_s)
        return self._grants.is_open(grant)

    def _adopt(self, grant: Grant, now_s: float) -> None:
        """Take over a grant of another life, and charge it unless the snapshot has done so."""
        is_paid = self._grants.adopt(grant, now_s)
        account = self._accounts.get(grant.tenant)
        if account is not None:
            account.num_running += grant.num_texts
            if not is_paid:
                account.owe(grant.tokens, now_s)
        self.counters["adopted"] += 1

    def _lapse(self, grant: Grant) -> None:
        self._grants.end(grant)
        account = self._accounts.get(grant.tenant)
        if account is not None:
            account.num_running -= grant.num_texts
        self.counters["lapsed"] += 1
