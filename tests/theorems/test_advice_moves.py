"""Advice moves the right way when prices, load or acceptance change, and its parts sum up."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.advice import draft as drafts
from s2d_ray.advice.advise import Question, advise
from s2d_ray.advice.capacity import Guessing, Shape, carrier_of, replicas_needed
from s2d_ray.advice.costs import bills, total_cost
from s2d_ray.advice.forecast import DAY, Hourly, seasonal_naive
from s2d_ray.advice.records import Usage, usage_of
from s2d_ray.config import AppConfig, TargetConfig
from s2d_ray.core.cost_model import CostModel
from s2d_ray.policy.usage import UsageRecord
from s2d_ray.simulate.service import Simulation
from tests.simulating import MEASURED, Site, arrival, costs
from tests.usage_records import record

FEW = settings(max_examples=25, deadline=None)
TARGET = TargetConfig(model="hub:a/b")

per_s = st.floats(0.01, 300.0)
chances = st.floats(0.0, 0.95)
shapes = st.builds(Shape, st.floats(1.0, 2_000.0), st.floats(1.0, 500.0))


@st.composite
def step_costs(draw: st.DrawFn) -> CostModel:
    """Some machine: a target's forwards, and a draft's steps."""
    forward = draw(st.floats(0.005, 0.1))
    rows, tokens = draw(st.floats(1.0, 4.0)), draw(st.floats(1.0, 3.0))
    step, share = draw(st.floats(0.0005, 0.05)), draw(st.floats(1.0, 8.0))
    forwards = {(1, 1): 1.0, (1, 4): tokens, (8, 1): rows, (8, 4): rows * tokens}
    return costs(
        {sizes: forward * times for sizes, times in forwards.items()},
        {256: forward * draw(st.floats(2.0, 40.0))},
        {1: step, 8: step * share},
    )


@st.composite
def usages(draw: st.DrawFn) -> list[UsageRecord]:
    """Requests of some tenants at two targets, at any times."""
    number = draw(st.integers(1, 30))
    return [
        record(
            draw(st.floats(0.0, 4_000.0)),
            draw(st.floats(0.0, 600.0)),
            tenant=draw(st.sampled_from("abc")),
            target=draw(st.sampled_from(["small", "large"])),
            tokens=draw(st.integers(1, 400)),
            drafted=draw(st.integers(0, 50)),
        )
        for _ in range(number)
    ]


def config(replica_hour: float | None = 1.0, draft_hour: float | None = 0.5) -> AppConfig:
    """A target of a fixed number of replicas, one that scales, and a draft."""
    prices = {"currency": "EUR", "replica_hour": replica_hour, "draft_hour": draft_hour}
    return AppConfig.model_validate(
        {
            "draft": {"base": "hub:a/b"},
            "targets": {
                "small": {"model": "hub:a/b", "num_replicas": 3},
                "large": {"model": "hub:a/b", "autoscaling": {"max_replicas": 6}},
            },
            "prices": prices,
        }
    )


@FEW
@given(step_costs(), shapes, chances, per_s, st.floats(1.0, 10.0), st.integers(0, 20))
def test_more_load_never_takes_fewer_replicas(
    machine: CostModel, shape: Shape, chance: float, load: float, times: float, others: int
) -> None:
    carrier = carrier_of(TARGET, machine, shape, Guessing(4, chance))
    fewer, more = (carrier.replicas_for(each, others) for each in (load, load * times))
    assert 1 <= fewer <= more


@FEW
@given(step_costs(), shapes, chances, chances, per_s, st.integers(0, 20))
def test_better_guesses_never_take_more_replicas_nor_more_than_none(
    machine: CostModel, shape: Shape, one: float, other: float, load: float, others: int
) -> None:
    worse, better = sorted([one, other])
    plain, low, high = (
        carrier_of(TARGET, machine, shape, guessing).replicas_for(load, others)
        for guessing in (None, Guessing(4, worse), Guessing(4, better))
    )
    assert high <= low <= plain


@FEW
@given(step_costs(), shapes, chances, per_s, st.integers(0, 20))
def test_the_replicas_that_are_advised_carry_the_load_and_one_less_does_not(
    machine: CostModel, shape: Shape, chance: float, load: float, others: int
) -> None:
    carrier = carrier_of(TARGET, machine, shape, Guessing(4, chance))
    number = carrier.replicas_for(load, others)
    assert carrier.rate_of(number, others) >= load * (1 - 1e-5)
    assert carrier.rate_of(number - 1, others) < load * (1 + 1e-5)


@FEW
@given(step_costs(), shapes, chances, per_s, st.floats(1.0, 10.0))
def test_targets_that_share_a_draft_take_no_fewer_replicas_together_for_more_load(
    machine: CostModel, shape: Shape, chance: float, load: float, times: float
) -> None:
    carriers = dict.fromkeys("ab", carrier_of(TARGET, machine, shape, Guessing(4, chance)))
    fewer = replicas_needed(carriers, {"a": load, "b": 1.0})
    more = replicas_needed(carriers, {"a": load * times, "b": 1.0})
    assert all(fewer[name] <= more[name] for name in "ab")


@FEW
@given(step_costs(), chances, chances)
def test_speculation_is_worth_more_with_better_guesses_and_pays_above_its_break_even(
    machine: CostModel, one: float, other: float
) -> None:
    worse, better = (
        carrier_of(TARGET, machine, Shape(100, 50), Guessing(4, each))
        for each in sorted([one, other])
    )
    assert 1.0 <= drafts.worth(worse) <= drafts.worth(better)
    even = drafts.break_even(better)
    assert even == drafts.break_even(worse)
    if even is None:
        assert drafts.worth(better) == 1.0
    elif abs(other - even) > 2 * drafts.CLOSE and abs(one - even) > 2 * drafts.CLOSE:
        assert (drafts.worth(worse) > 1.0) == (min(one, other) > even)


@FEW
@given(step_costs(), chances, st.integers(1, 200))
def test_sharing_never_takes_more_drafts_than_replicas_have(
    machine: CostModel, chance: float, replicas: int
) -> None:
    """And none is advised that carries more than it can."""
    carrier = carrier_of(TARGET, machine, Shape(100, 50), Guessing(4, chance))
    sharing = drafts.sharing_of({"a": carrier}, {"a": replicas}, 100)
    if sharing is None:
        assert drafts.worth(carrier) == 1.0
        return
    assert 1 <= sharing.shared <= sharing.private == replicas
    assert sharing.shared * sharing.carried >= replicas
    assert (sharing.saved_drafts == 0) == (sharing.carried == 1 or replicas == 1)


@FEW
@given(st.floats(0.0, 1.0), st.integers(1, 8))
def test_the_acceptance_of_a_share_gives_that_share(share: float, levels: int) -> None:
    found = drafts.acceptance_of(share, levels)
    assert 0.0 <= found <= drafts.HIGHEST
    if found < drafts.HIGHEST - drafts.CLOSE:
        got = drafts.accepted_share(Guessing(levels, found))
        assert got == pytest.approx(share, abs=levels * drafts.CLOSE)


@FEW
@given(usages())
def test_tenants_and_idle_time_sum_to_the_whole(records: list[UsageRecord]) -> None:
    found = bills(usage_of(records), config())
    for target in found.values():
        parts = [*target.tenants.values(), target.idle]
        for name in ("requests", "prompt_tokens", "output_tokens", "hours", "draft_hours", "cost"):
            whole = getattr(target.whole, name)
            assert sum(getattr(part, name) for part in parts) == pytest.approx(whole, abs=1e-9)
        assert all(part.hours >= 0 for part in parts)
    assert sum(target.whole.requests for target in found.values()) == len(records)


@FEW
@given(usages())
def test_fixed_replicas_are_paid_for_the_whole_time(records: list[UsageRecord]) -> None:
    usage = usage_of(records)
    began_s, ended_s = usage.span_s
    found = bills(usage, config())
    assert found["small"].whole.hours == pytest.approx(3 * (ended_s - began_s) / 3600)
    assert found["large"].whole.hours <= 6 * (ended_s - began_s) / 3600 + 1e-9


@FEW
@given(usages(), st.floats(0.0, 10.0), st.floats(0.0, 10.0), st.floats(0.0, 5.0))
def test_a_higher_price_never_costs_less(
    records: list[UsageRecord], price: float, more: float, draft_more: float
) -> None:
    usage = usage_of(records)
    low = bills(usage, config(price, 0.1))
    high = bills(usage, config(price + more, 0.1 + draft_more))
    cheap, dear = total_cost(low), total_cost(high)
    assert cheap is not None
    assert dear is not None
    assert cheap <= dear + 1e-9
    for name, bill in low.items():
        for tenant, own in bill.tenants.items():
            other = high[name].tenants[tenant]
            assert (own.cost or 0.0) <= (other.cost or 0.0) + 1e-9


def test_a_request_alone_has_its_replica_and_two_share_one() -> None:
    """Three replicas: three texts have one each, six have half of one each."""
    hour = 3_600.0
    three = bills(usage_of([record(0, hour)] * 3), config())["small"]
    six = bills(usage_of([record(0, hour)] * 6), config())["small"]
    assert three.whole.hours == six.whole.hours == pytest.approx(3)
    assert three.idle.hours == six.idle.hours == pytest.approx(0)
    one = bills(usage_of([record(0, hour)]), config())["small"]
    assert (one.tenants["a"].hours, one.idle.hours) == pytest.approx((1, 2))


@FEW
@given(st.lists(st.integers(0, 500), min_size=48, max_size=24 * 6), st.integers(2, 96))
def test_an_interval_holds_its_forecast_and_widens_day_by_day(
    values: list[int], hours: int
) -> None:
    """In roots, where the model is; a width in loads grows with the load too."""
    found = seasonal_naive(Hourly(0.0, np.array(values, dtype=np.float64)), hours)
    assert (found.low <= found.likely + 1e-9).all()
    assert (found.likely <= found.high + 1e-9).all()
    width = np.sqrt(found.high + 3 / 8) - np.sqrt(found.likely + 3 / 8)
    assert (width[DAY:] >= width[:-DAY] - 1e-9).all()


@pytest.mark.parametrize("chance", [0.0, 0.8])
def test_replicas_that_are_advised_keep_up_in_the_simulator_and_half_of_them_do_not(
    chance: float,
) -> None:
    """A second way to the same number: requests of one shape, as often as they are said to fit."""
    prompt, output, load, until_s = 120, 60, 14.0, 60.0
    guessing = Guessing(4, chance) if chance else None
    advised = carrier_of(TARGET, MEASURED, Shape(prompt, output), guessing).replicas_for(load)

    def open_at_the_end(num_replicas: int) -> int:
        service = Site(num_replicas=num_replicas).service()
        if guessing is not None:
            service = dataclasses.replace(service, draft=lambda: guessing.draft(MEASURED))
        arrivals = (arrival(n / load, output, prompt) for n in range(int(load * until_s)))
        run = Simulation(service, arrivals, 1)
        run.run(until_s)
        return sum(request.ended_s is None for request in run.requests)

    kept_up = open_at_the_end(advised)
    assert kept_up < TARGET.max_batch * advised
    assert open_at_the_end(advised // 2) > 2 * kept_up


def test_all_advice_of_a_config_moves_with_the_load_and_the_price() -> None:
    records = usage_of([record(10.0 * n, 5.0, drafted=20, accepted=12) for n in range(200)])

    def hourly(usage: Usage, load: float, price: float) -> float:
        machine = dict.fromkeys(("small", "large"), MEASURED)
        asked = Question(config(price), machine, usage, acceptance=0.6, load_per_s=load)
        each = advise(asked)["replicas"].values()
        return sum(found["cost_per_hour"] for found in each)

    assert hourly(records, 1.0, 1.0) < hourly(records, 50.0, 1.0) < hourly(records, 50.0, 2.0)
