"""The ledger on a virtual clock: what it grants, refuses, takes back and keeps."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from s2d_ray.errors import Forbidden, Overloaded, RateLimited, RequestError
from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.grants import LAPSE_S, Grant
from s2d_ray.policy.ledger import RECOVERY_S, Bounds, Granted, Ledger, Snapshot
from s2d_ray.policy.limits import Limits, Reason, Refusal
from s2d_ray.policy.waiting import SLACK, Waiting

BOUNDS = Bounds(max_open=100, max_waiting_bytes=10_000)


def ledger_of(limits: Limits | None = None, bounds: Bounds = BOUNDS, slots: int = 8) -> Ledger:
    ledger = Ledger(bounds, {"a": limits or Limits(), "b": Limits()}, "life-1", 0.0)
    ledger.set_slots({"t": slots})
    return ledger


def admit(
    ledger: Ledger,
    name: str,
    now_s: float = 0.0,
    *,
    tenant: str = "a",
    tokens: int = 10,
    wait_s: float = 60.0,
    num_texts: int = 1,
    num_bytes: int = 0,
) -> list[Granted | Refusal]:
    """The decisions that are due when a request arrives."""
    ledger.admit(Ask(name, tenant, "t", tokens, now_s + wait_s, num_texts, num_bytes, now_s), now_s)
    return ledger.decide(now_s)


def grant(ledger: Ledger, name: str, now_s: float = 0.0, tokens: int = 10) -> Grant:
    """A request that is granted at once."""
    (decision,) = admit(ledger, name, now_s, tokens=tokens)
    assert isinstance(decision, Granted)
    return decision.grant


def reason_of(decisions: list[Granted | Refusal]) -> Reason:
    (decision,) = decisions
    assert isinstance(decision, Refusal)
    return decision.reason


def granted_ids(decisions: list[Granted | Refusal]) -> list[str]:
    return [d.grant.id for d in decisions if isinstance(d, Granted)]


def remaining(ledger: Ledger, now_s: float, kind: str = "tokens") -> int:
    (left,) = (a.remaining for a in ledger.allowances("a", now_s) if a.kind == kind)
    return left


def test_at_most_five_quarters_of_the_batch_slots_are_granted() -> None:
    ledger = ledger_of(slots=8)
    for number in range(12):
        admit(ledger, f"r{number}")
    assert (ledger.running("t"), ledger.num_waiting) == (10, 2)


def test_an_ended_grant_makes_room_for_the_next() -> None:
    ledger = ledger_of(slots=1)
    first = grant(ledger, "r1")
    assert admit(ledger, "r2", 1.0) == []
    ledger.finish(first, 10, 3.0)
    (granted,) = ledger.decide(3.0)
    assert isinstance(granted, Granted)
    assert (granted.grant.id, granted.queue_s) == ("r2", 2.0)


def test_nothing_is_granted_while_no_replica_runs() -> None:
    ledger = ledger_of(slots=0)
    assert admit(ledger, "r1") == []
    ledger.set_slots({"t": 8})
    assert granted_ids(ledger.decide(1.0)) == ["r1"]


def test_a_request_of_more_texts_than_slots_runs_alone() -> None:
    ledger = ledger_of(slots=4)
    admit(ledger, "small")
    admit(ledger, "large", num_texts=9)
    ledger.finish(Grant("small", "a", "t", 10, 1, "life-1"), 10, 1.0)
    assert granted_ids(ledger.decide(1.0)) == ["large"]
    assert admit(ledger, "next", 2.0) == []


def test_an_unrenewed_grant_lapses_and_its_tokens_stay_charged() -> None:
    """Its slot is free after five seconds; what comes back later changes nothing."""
    ledger = ledger_of(Limits(tokens_per_minute=600), slots=1)
    lost = grant(ledger, "r1", tokens=600)
    admit(ledger, "r2", tenant="b")
    ledger.renew([lost], 1.0)
    assert granted_ids(ledger.decide(1.0 + LAPSE_S)) == []
    assert granted_ids(ledger.decide(1.1 + LAPSE_S)) == ["r2"]
    charged = remaining(ledger, 7.0)
    ledger.renew([lost], 7.0)
    ledger.finish(lost, 0, 7.0)
    assert remaining(ledger, 7.0) == charged
    assert ledger.running("t") == 1


def test_unused_tokens_are_refunded_once_and_overdrawn_ones_charged() -> None:
    ledger = ledger_of(Limits(tokens_per_minute=600))
    one = grant(ledger, "r1", tokens=500)
    ledger.finish(one, 100, 0.0)
    ledger.finish(one, 100, 0.0)
    assert remaining(ledger, 0.0) == 500
    ledger.finish(grant(ledger, "r2", tokens=100), 250, 0.0)
    assert remaining(ledger, 0.0) == 250


def test_the_limits_of_a_minute_refuse_with_the_time_to_come_back() -> None:
    ledger = ledger_of(Limits(requests_per_minute=2, tokens_per_minute=1_000))
    grant(ledger, "r1", tokens=700)
    (refusal,) = admit(ledger, "r2", tokens=400)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.TOKENS_PER_MINUTE
    assert refusal.retry_after_s == pytest.approx(6.0)
    grant(ledger, "r3", tokens=100)
    (refusal,) = admit(ledger, "r4", tokens=1)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after_s) == (Reason.REQUESTS_PER_MINUTE, 30.0)
    error = refusal.error()
    assert isinstance(error, RateLimited)
    assert error.headers["retry-after"] == "30"
    assert error.headers["x-ratelimit-limit-requests"] == "2"
    assert error.headers["x-ratelimit-remaining-tokens"] == "200"
    assert error.headers["x-ratelimit-reset-tokens"] == "48000ms"
    assert error.code == "requests_per_minute"


def test_what_can_never_be_admitted_is_the_clients_own_mistake() -> None:
    """A 400 that names the field: clients try a 429 again."""
    ledger = ledger_of(Limits(tokens_per_minute=100, max_running=2))
    for decisions, param in (
        (admit(ledger, "r1", tokens=101), "max_tokens"),
        (admit(ledger, "r2", num_texts=3), "n"),
    ):
        (refusal,) = decisions
        assert isinstance(refusal, Refusal)
        error = refusal.error()
        assert (type(error), error.param) == (RequestError, param)
        assert "retry-after" not in error.headers


def test_a_tenants_own_caps_hold_and_others_pass() -> None:
    ledger = ledger_of(Limits(max_running=1, max_waiting=1))
    grant(ledger, "r1")
    assert admit(ledger, "r2") == []
    assert reason_of(admit(ledger, "r3")) is Reason.QUEUE_FULL
    assert granted_ids(admit(ledger, "r4", tenant="b")) == ["r4"]


def test_the_service_is_full_below_its_bounds_whatever_the_caps_sum_to() -> None:
    ledger = ledger_of(bounds=Bounds(max_open=3, max_waiting_bytes=100), slots=1)
    admit(ledger, "r1", num_bytes=100)
    assert admit(ledger, "r2", num_bytes=100) == []
    assert reason_of(admit(ledger, "r3", tenant="b", num_bytes=1)) is Reason.SERVICE_FULL
    assert admit(ledger, "r4", tenant="b") == []
    (refusal,) = admit(ledger, "r5", tenant="b")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.SERVICE_FULL
    assert isinstance(refusal.error(), Overloaded)


def test_expired_and_cancelled_requests_leave_at_once_and_cost_nothing() -> None:
    ledger = ledger_of(Limits(tokens_per_minute=600, requests_per_minute=3), slots=1)
    grant(ledger, "r1", tokens=300)
    admit(ledger, "r2", tokens=100, wait_s=5.0)
    admit(ledger, "r3", tokens=100)
    ledger.renew([Grant("r1", "a", "t", 300, 1, "life-1")], 5.0)
    assert reason_of(ledger.decide(5.0)) is Reason.DEADLINE
    ledger.cancel("r3", 5.0)
    ledger.cancel("r3", 5.0)
    assert ledger.num_waiting == 0
    assert (remaining(ledger, 5.0), remaining(ledger, 5.0, "requests")) == (350, 2)


def test_a_request_of_no_tenant_is_forbidden() -> None:
    (refusal,) = admit(ledger_of(), "r1", tenant="nobody")
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error(), Forbidden)


def test_new_limits_hold_at_once_and_harm_nothing_that_runs() -> None:
    """A removed tenant's waiting requests are refused; its running ones end as usual."""
    ledger = ledger_of(Limits(max_running=1), slots=4)
    first = grant(ledger, "r1")
    admit(ledger, "r2")
    admit(ledger, "r3")
    ledger.set_tenants({"a": Limits(max_running=2), "b": Limits()}, 1.0)
    assert granted_ids(ledger.decide(1.0)) == ["r2"]
    ledger.set_tenants({"b": Limits()}, 2.0)
    assert reason_of(ledger.decide(2.0)) is Reason.UNKNOWN_TENANT
    ledger.set_tenants({"a": Limits(max_running=2), "b": Limits()}, 3.0)
    ledger.finish(first, 10, 3.0)
    assert granted_ids(admit(ledger, "r4", 3.0)) == ["r4"]
    assert admit(ledger, "r5", 3.0) == []


def test_changed_limits_do_not_fill_a_bucket() -> None:
    ledger = ledger_of(Limits(tokens_per_minute=600))
    grant(ledger, "r1", tokens=600)
    ledger.set_tenants({"a": Limits(tokens_per_minute=1_200)}, 0.0)
    assert remaining(ledger, 0.0) == 600


class TestRestart:
    """A second ledger takes over from a snapshot, on a clock of its own."""

    LIMITS = Limits(tokens_per_minute=600)

    def take_over(self, snapshot: Snapshot, now_s: float = 1_000.0) -> Ledger:
        tenants = {"a": self.LIMITS, "b": Limits()}
        ledger = Ledger(BOUNDS, tenants, "life-2", now_s, snapshot)
        ledger.set_slots({"t": 1})
        return ledger

    def test_it_grants_nothing_until_routers_had_time_to_tell(self) -> None:
        old = ledger_of(self.LIMITS, slots=1)
        running = grant(old, "r1")
        new = self.take_over(old.snapshot(0.0))
        assert admit(new, "r2", 1_000.0) == []
        new.renew([running], 1_001.0)
        assert granted_ids(new.decide(1_000.0 + RECOVERY_S)) == []
        new.finish(running, 10, 1_003.0)
        assert granted_ids(new.decide(1_003.0)) == ["r2"]

    def test_what_nobody_tells_of_is_forgotten_and_stays_charged(self) -> None:
        old = ledger_of(self.LIMITS, slots=1)
        grant(old, "r1", tokens=400)
        new = self.take_over(old.snapshot(0.0))
        assert admit(new, "r2", 1_000.0) == []
        assert granted_ids(new.decide(1_000.0 + RECOVERY_S)) == ["r2"]
        assert remaining(new, 1_002.0) == 600 - 400 - 10 + 20

    def test_buckets_go_on_without_refill(self) -> None:
        old = ledger_of(self.LIMITS)
        grant(old, "r1", tokens=600)
        assert remaining(self.take_over(old.snapshot(6.0)), 1_000.0) == 60

    def test_a_grant_is_charged_once_whether_the_snapshot_knew_it_or_not(self) -> None:
        """One ran at the snapshot, one waited then and was granted after, one came after."""
        old = ledger_of(self.LIMITS, slots=1)
        known = grant(old, "r1", tokens=100)
        admit(old, "r2", tokens=50)
        snapshot = old.snapshot(0.0)
        old.finish(known, 100, 0.0)
        (second,) = old.decide(0.0)
        assert isinstance(second, Granted)
        third = Grant("r3", "a", "t", 30, 1, "life-1")
        new = self.take_over(snapshot)
        assert remaining(new, 1_000.0) == 500
        for _ in range(2):
            new.renew([known, second.grant, third], 1_000.0)
        assert remaining(new, 1_000.0) == 420

    def test_an_end_told_only_to_the_second_ledger_is_settled_once(self) -> None:
        old = ledger_of(self.LIMITS)
        known, later = grant(old, "r1", tokens=100), Grant("r2", "a", "t", 200, 1, "life-1")
        new = self.take_over(old.snapshot(0.0))
        for _ in range(2):
            new.finish(known, 40, 1_000.0)
            new.finish(later, 60, 1_000.0)
        assert remaining(new, 1_000.0) == 500
        new.renew([known, later], 1_000.0)
        assert new.running("t") == 0

    def test_a_snapshot_of_other_tenants_and_limits_is_no_trouble(self) -> None:
        new = self.take_over(Snapshot({"gone": {"tokens": 5.0}, "a": {"tokens": 9_999.0}}, []))
        assert remaining(new, 1_000.0) == 600


RPM, TPM, RUNNING, WAITING, SLOTS, MAX_OPEN = 30, 2_000, 3, 4, 6, 12


class AnyTraffic(RuleBasedStateMachine):
    """Any interleaving of arrivals, ends, losses and time, from two tenants and many clients."""

    def __init__(self) -> None:
        super().__init__()
        limits = Limits(RPM, TPM, RUNNING, WAITING)
        tenants = {"a": limits, "b": limits}
        self.ledger = Ledger(Bounds(MAX_OPEN, 10**6), tenants, "life", 0.0)
        self.ledger.set_slots({"t": SLOTS, "u": SLOTS})
        self.now_s = 0.0
        self.num_asks = 0
        self.undecided: dict[str, Ask] = {}
        self.grants: dict[str, Grant] = {}
        self.decided: Counter[str] = Counter()
        self.flows: dict[str, list[tuple[float, int]]] = {"a": [], "b": []}

    @rule(
        tenant=st.sampled_from("ab"),
        model=st.sampled_from("tu"),
        tokens=st.integers(1, 900),
        wait_s=st.floats(0.1, 20.0),
        num_texts=st.integers(1, 2),
    )
    def arrive(self, tenant: str, model: str, tokens: int, wait_s: float, num_texts: int) -> None:
        self.num_asks += 1
        ask = Ask(f"r{self.num_asks}", tenant, model, tokens, self.now_s + wait_s, num_texts)
        self.undecided[ask.id] = ask
        self.flows[tenant].append((self.now_s, tokens))
        self.ledger.admit(ask, self.now_s)
        self._decide()

    @rule(data=st.data(), share=st.floats(0.0, 1.0))
    def end(self, data: st.DataObject, share: float) -> None:
        if self.grants:
            grant = self.grants.pop(data.draw(st.sampled_from(sorted(self.grants))))
            used = int(share * grant.tokens)
            self.flows[grant.tenant].append((self.now_s, used - grant.tokens))
            self.ledger.finish(grant, used, self.now_s)
            self._decide()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.undecided:
            self._give_up(data.draw(st.sampled_from(sorted(self.undecided))))
            self._decide()

    @rule(pause_s=st.floats(0.0, 4.0), loses=st.booleans())
    def pass_time(self, pause_s: float, loses: bool) -> None:
        """A router that dies renews nothing; its grants lapse, and their tokens stay charged."""
        self.now_s += pause_s
        self.ledger.renew(self.grants.values(), self.now_s)
        self._decide()
        if loses:
            self.grants.clear()
            self.now_s += LAPSE_S + 0.01
            self._decide()

    def _give_up(self, name: str) -> None:
        ask = self.undecided.pop(name)
        self.flows[ask.tenant].append((self.now_s, -ask.tokens))
        self.ledger.cancel(name, self.now_s)

    def _decide(self) -> None:
        for decision in self.ledger.decide(self.now_s):
            name = decision.grant.id if isinstance(decision, Granted) else decision.id
            ask = self.undecided.pop(name)
            self.decided[name] += 1
            if isinstance(decision, Granted):
                self.grants[name] = decision.grant
            elif decision.reason is Reason.DEADLINE:
                self.flows[ask.tenant].append((self.now_s, -ask.tokens))
            else:  # refused on arrival: nothing was taken
                assert self.flows[ask.tenant].pop() == (self.now_s, ask.tokens)

    @invariant()
    def granted_minus_refunded_is_at_most_the_bucket(self) -> None:
        for flows in self.flows.values():
            for first, (start_s, _) in enumerate(flows):
                total = 0
                for end_s, flow in flows[first:]:
                    total += flow
                    assert total <= TPM * (1 + (end_s - start_s) / 60) + 1e-3

    @invariant()
    def caps_hold_and_no_slot_stands_free_of_who_may_run(self) -> None:
        texts: Counter[str] = Counter()
        waiting: Counter[str] = Counter(ask.tenant for ask in self.undecided.values())
        for grant in self.grants.values():
            texts[grant.tenant] += grant.num_texts
            texts[grant.target] += grant.num_texts
        assert all(texts[tenant] <= RUNNING and waiting[tenant] <= WAITING for tenant in "ab")
        assert all(texts[target] <= math.floor(1.25 * SLOTS) for target in "tu")
        assert len(self.grants) + len(self.undecided) <= MAX_OPEN
        assert all(count == 1 for count in self.decided.values())
        for ask in self.undecided.values():
            is_blocked = any(
                texts[key] + 2 > cap for key, cap in ((ask.tenant, RUNNING), (ask.target, 7))
            )
            assert is_blocked

    @invariant()
    def the_ledger_counts_what_runs_and_waits(self) -> None:
        assert self.ledger.num_waiting == len(self.undecided)
        for target in "tu":
            texts = sum(g.num_texts for g in self.grants.values() if g.target == target)
            assert self.ledger.running(target) == texts


TestAnyTraffic = AnyTraffic.TestCase
TestAnyTraffic.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def test_what_left_costs_nothing_for_ever() -> None:
    """Deadlines of requests that left are tidied up, and bytes and deadlines of the rest stay."""
    waiting = Waiting()
    stays = Ask("stays", "a", "t", 1, 7.0, num_bytes=5)
    waiting.add(stays)
    for number in range(3 * SLACK):
        ask = Ask(f"r{number}", "a", "t", 1, 1e9 + number, num_bytes=9)
        waiting.add(ask)
        waiting.remove(ask)
    assert len(waiting._deadlines) <= SLACK + 2
    assert (len(waiting), waiting.num_bytes) == (1, 5)
    assert waiting.expired(6.9) == []
    assert waiting.expired(7.0) == [stays]
