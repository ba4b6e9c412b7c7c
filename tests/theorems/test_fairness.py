"""The fair queue, in engine steps on a virtual clock, with the real ledger."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from s2d_ray.policy.fair_queue import QUANTUM_TOKENS, Ask, quantum_of
from s2d_ray.policy.limits import Limits
from tests.flood import NUM_STEPS, run_flood, wait_p95
from tests.queueing import Line, VirtualTarget

WEIGHTS = {"a": 1.0, "b": 1.0, "c": 0.25, "d": 4.0}
BANDS = {"a": 1, "b": 1, "c": 1, "d": 2}


def limits_of(weight: float, band: int = 1) -> Limits:
    return Limits(max_running=10**6, max_waiting=10**6, weight=weight, band=band)


def excess(line: Line, quanta: dict[str, int], bands: dict[str, int]) -> float:
    """By how many tokens the bound is broken, at worst, over all granted requests.

    The bound: from the arrival of a request to its grant, another tenant of its band is granted at
    most ⌈own cost / own quantum⌉ of its quanta, plus the largest request it had waiting. Own cost
    are the tokens that the request's tenant itself put before it: those granted to the tenant in
    that time, itself included, and those of requests with an earlier deadline that gave up then,
    since their turns were saved up for while they stood in front.
    """
    worst = -math.inf
    for index, (what, ask) in enumerate(line.events):
        if what != "granted":
            continue
        start = line.events.index(("arrived", ask))
        window = line.events[start : index + 1]
        own = sum(each.tokens for each in _before(ask, line.events[:start], window))
        num_quanta = math.ceil(own / quanta[ask.tenant])
        for other in quanta.keys() - {ask.tenant}:
            if bands[other] != bands[ask.tenant]:
                continue
            granted = sum(a.tokens for w, a in window if w == "granted" and a.tenant == other)
            largest = _largest_waiting(line, other, start, index)
            worst = max(worst, granted - num_quanta * quanta[other] - largest)
    return worst


def _before(ask: Ask, earlier: list[tuple[str, Ask]], window: list[tuple[str, Ask]]) -> set[Ask]:
    """What its own tenant put before a request, or at its side; see `excess`."""
    own = [(what, each) for what, each in window if each.tenant == ask.tenant]
    granted = {each for what, each in own if what == "granted"}
    gave_up = {each for what, each in own if what == "left" and each.deadline_s <= ask.deadline_s}
    return granted | (gave_up - {each for what, each in earlier if what == "granted"})


def _largest_waiting(line: Line, tenant: str, start: int, end: int) -> int:
    gone = {ask.id for what, ask in line.events[:start] if what != "arrived"}
    seen = [a for w, a in line.events[:end] if w == "arrived" and a.tenant == tenant]
    return max((ask.tokens for ask in seen if ask.id not in gone), default=0)


arrival = st.tuples(
    st.integers(0, 4),  # steps until it arrives
    st.sampled_from(sorted(WEIGHTS)),
    st.integers(1, 3_000),  # tokens
    st.integers(1, 12),  # steps it runs
    st.one_of(st.just(1e9), st.floats(0.05, 2.0)),  # seconds it waits at most
    st.integers(1, 3),  # texts
    st.one_of(st.none(), st.integers(0, 40)),  # which earlier one leaves just before
)


def _plain(tenant: str, tokens: int, num_steps: int = 1, wait_s: float = 1e9) -> tuple[Any, ...]:
    return (0, tenant, tokens, num_steps, wait_s, 1, None)


@example(  # a request in front that gives up has already cost its tenant a turn
    slots=1,
    script=[
        *(_plain("a", 1) for _ in range(5)),
        _plain("a", 1, num_steps=3),
        _plain("a", 60),
        _plain("a", 60),
        _plain("b", 1),
        _plain("b", 65, wait_s=0.5),
    ],
)
@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.lists(arrival, max_size=60))
def test_no_other_tenant_gets_more_than_its_quanta_and_one_request(
    slots: int, script: list[tuple[int, str, int, int, float, int, int | None]]
) -> None:
    """Any weights, costs, deadlines, choices and cancellations."""
    tenants = {name: limits_of(WEIGHTS[name], BANDS[name]) for name in WEIGHTS}
    target = VirtualTarget(tenants, slots)
    names: list[str] = []
    for pause, tenant, tokens, num_steps, wait_s, num_texts, leaver in script:
        target.run(pause)
        if leaver is not None and leaver < len(names):
            target.leave(names[leaver])
        names.append(target.ask(tenant, tokens, num_steps, wait_s, num_texts))
    target.run(200)
    quanta = {name: quantum_of(weight) for name, weight in WEIGHTS.items()}
    assert excess(target.line, quanta, BANDS) <= 0


@pytest.mark.parametrize("num_waiting", [5, 500])
@pytest.mark.parametrize("own_tokens", [100, 512, 2_000])
def test_a_queue_of_five_hundred_holds_others_up_no_longer_than_one_of_five(
    num_waiting: int, own_tokens: int
) -> None:
    """The other tenant is granted ⌈own cost / quantum⌉ quanta before, whatever its queue."""
    target = VirtualTarget({"flood": limits_of(1.0), "own": limits_of(1.0)}, slots=4)
    for _ in range(num_waiting):
        target.ask("flood", 256, num_steps=4)
    own = target.ask("own", own_tokens, num_steps=4)
    target.run(200)
    granted = [ask for what, ask in target.line.events if what == "granted"]
    position = [ask.id for ask in granted].index(own)
    before = [ask.tokens for ask in granted[:position]][5:]  # five had slots when it arrived
    assert sum(before) <= math.ceil(own_tokens / QUANTUM_TOKENS) * QUANTUM_TOKENS + 256
    if num_waiting == 500:
        assert sum(before) > 0


def test_the_bound_notices_a_queue_that_is_first_come_first_served() -> None:
    """The same events as a plain queue would make them break it: the test above can fail."""
    line = Line()
    flood = [Ask(f"b-{i}", "b", "t", 300, 1e9) for i in range(20)]
    own = Ask("a", "a", "t", 300, 1e9)
    line.events = [("arrived", ask) for ask in [*flood, own]]
    line.events += [("granted", ask) for ask in [*flood, own]]
    assert excess(line, {"a": 512, "b": 512}, {"a": 1, "b": 1}) == 20 * 300 - 512 - 300


def test_among_equals_tokens_are_shared_by_weight() -> None:
    """Three tenants that always wait get one, two and four parts of the tokens."""
    weights = {"one": 1.0, "two": 2.0, "four": 4.0}
    target = VirtualTarget({name: limits_of(w) for name, w in weights.items()}, slots=8)
    for tenant, tokens in {"one": 100, "two": 700, "four": 350}.items():
        for _ in range(400):
            target.ask(tenant, tokens, num_steps=5)
    target.run(200)
    granted = [ask for what, ask in target.line.events if what == "granted"]
    shares = {name: sum(a.tokens for a in granted if a.tenant == name) for name in weights}
    assert shares["two"] / shares["one"] == pytest.approx(2, rel=0.1)
    assert shares["four"] / shares["one"] == pytest.approx(4, rel=0.1)


def test_a_lower_band_goes_first_and_a_blocked_one_lets_others_pass() -> None:
    tenants = {
        "urgent": Limits(max_running=2, max_waiting=10**6, band=0),
        "patient": limits_of(1.0),
    }
    target = VirtualTarget(tenants, slots=4)
    for _ in range(6):
        target.ask("patient", 10, num_steps=10)
    for _ in range(6):
        target.ask("urgent", 10, num_steps=10)
    target.run(200)
    order = [ask.tenant for what, ask in target.line.events if what == "granted"]
    assert order[:5] == ["patient"] * 5
    assert order[5:7] == ["urgent"] * 2
    assert sorted(order[5:]) == ["patient"] + ["urgent"] * 6


def test_within_a_tenant_the_earliest_deadline_goes_first() -> None:
    target = VirtualTarget({"a": limits_of(1.0)}, slots=1)
    target.ask("a", 10, num_steps=5)
    late = target.ask("a", 10, num_steps=5, wait_s=60)
    soon = target.ask("a", 10, num_steps=5, wait_s=30)
    target.run(50)
    assert target.line.started_step[soon] < target.line.started_step[late]


def test_dropping_a_huge_request_buys_nothing() -> None:
    """What a tenant saved up for it is cut to the largest that still waits."""
    target = VirtualTarget({"a": limits_of(1.0), "b": limits_of(1.0)}, slots=1)
    target.ask("a", 10, num_steps=1)
    huge = target.ask("a", 100_000, num_steps=1, wait_s=50)
    for _ in range(100):
        target.ask("a", 100, num_steps=1)
    for _ in range(400):
        target.ask("b", 100, num_steps=1)
    target.run(100)
    target.leave(huge)
    start = len(target.line.events)
    target.run(60)
    granted = [ask.tenant for what, ask in target.line.events[start:] if what == "granted"]
    # Its half, and the savings of one small request.
    assert granted[:20].count("a") <= 10 + 2


def test_a_flood_moves_the_wait_of_another_tenant_hardly() -> None:
    """20 times its share against once its share, with equally full slots."""
    calm, flood = run_flood(1.0), run_flood(20.0)
    assert min(calm.full, flood.full) > 0.99 * NUM_STEPS
    assert flood.num_refused > 0
    assert wait_p95(flood.waits) <= 1.5 * wait_p95(calm.waits)
