"""All advice as plain values, from what was asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from s2d_ray.advice import costs as money
from s2d_ray.advice import draft as drafts
from s2d_ray.advice import drift, forecast
from s2d_ray.advice.capacity import Carrier, Shape, carrier_of, guessing_of, replicas_needed
from s2d_ray.advice.records import Usage
from s2d_ray.config import AppConfig
from s2d_ray.core.cost_model import CostModel
from s2d_ray.plan_file import PlanFile
from s2d_ray.simulate.traces import OUTPUT_MEDIAN, PROMPT_MEDIAN, SPREAD

Values = dict[str, Any]

BOUNDS = ("low", "likely", "high")

SKEW = math.exp(SPREAD**2 / 2)
"""Mean over median of the lengths that traces draw."""


@dataclass(frozen=True)
class Question:
    """What is asked. costs: by target. usage: of all files; empty without any.

    acceptance, load_per_s: given by hand. forecast_days: 0: no forecast.
    """

    config: AppConfig
    costs: Mapping[str, CostModel]
    usage: Usage
    plans: PlanFile | None = None
    acceptance: float | None = None
    load_per_s: float | None = None
    forecast_days: int = 0


def advise(asked: Question) -> Values:
    """Everything there is to say. Raises RunError where a forecast lacks its library."""
    carriers = {name: _carrier(asked, name) for name in asked.config.targets}
    per_s = loads(asked)
    needed = replicas_needed(carriers, per_s)
    values: Values = {
        "currency": asked.config.prices.currency if asked.config.prices else None,
        "usage": _usage(asked),
        "cost": _cost(asked) if len(asked.usage) else None,
        "replicas": _replicas(asked, carriers, per_s, needed),
        "speculation": {name: _speculation(carrier) for name, carrier in carriers.items()},
        "draft": _draft(asked, carriers, needed),
        "warnings": [*_too_few(asked, needed), *_drifts(asked)],
        "forecast": {},
    }
    if asked.forecast_days:
        values["forecast"] = {
            name: _forecast(asked, name, carriers) for name in asked.config.targets
        }
    return values


def acceptance(asked: Question, target: str) -> tuple[float | None, str]:
    """P(a guess is right, if those before it are), and where that is from."""
    levels = asked.config.plan.max_proposal
    if asked.acceptance is not None:
        return asked.acceptance, "given"
    if not levels:
        return None, "the plan makes no guesses"
    own = asked.usage.of(target)
    if drafted := int(own.drafted_tokens.sum()):
        share = float(own.accepted_tokens.sum()) / drafted
        return drafts.acceptance_of(min(share, 1.0), levels), "usage"
    plans = asked.plans.targets.get(target) if asked.plans else None
    if plans and (shares := drift.expected_shares(plans)):
        best = [of_class[0] for of_class in shares]
        return drafts.acceptance_of(sum(best) / len(best), levels), "plan file"
    return None, "not known"


def shape(usage: Usage, target: str) -> Shape:
    """The mean request of a target; without records, that of drawn traces."""
    own = usage.of(target)
    if not len(own):
        return Shape(SKEW * PROMPT_MEDIAN, SKEW * OUTPUT_MEDIAN)
    read = np.maximum(own.prompt_tokens - own.cached_tokens, 0)
    return Shape(float(read.mean()), max(1.0, float(own.completion_tokens.mean())))


def loads(asked: Question) -> dict[str, float]:
    """Requests per second by target: the given ones, shared as in the records, else those of each
    target's busiest hour; 0 without both."""
    usage, names = asked.usage, list(asked.config.targets)
    counts = {name: len(usage.of(name)) for name in names}
    if asked.load_per_s is not None:
        total = sum(counts.values())
        shares = {n: counts[n] / total if total else 1 / len(names) for n in names}
        return {name: asked.load_per_s * shares[name] for name in names}
    return {name: _busiest_per_s(usage.of(name), usage.span_s) for name in names}


def _busiest_per_s(usage: Usage, span_s: tuple[float, float]) -> float:
    if not len(usage):
        return 0.0
    hours = forecast.hourly_of(usage, np.ones(len(usage)), span_s).values
    if len(hours):
        return float(hours.max()) / forecast.HOUR_S
    return len(usage) / max(1.0, span_s[1] - span_s[0])


def _carrier(asked: Question, name: str) -> Carrier:
    guessing = guessing_of(asked.config, acceptance(asked, name)[0])
    target = asked.config.targets[name]
    return carrier_of(target, asked.costs[name], shape(asked.usage, name), guessing)


def _usage(asked: Question) -> Values:
    began_s, ended_s = asked.usage.span_s
    known = np.isin(asked.usage.targets, list(asked.config.targets))
    others = sorted(set(map(str, asked.usage.targets[~known])))
    return {
        "requests": len(asked.usage),
        "began_s": began_s,
        "ended_s": ended_s,
        "hours": (ended_s - began_s) / forecast.HOUR_S,
        "not_in_config": {name: len(asked.usage.of(name)) for name in others},
    }


def _cost(asked: Question) -> Values:
    prices = asked.config.prices
    found = money.bills(asked.usage, asked.config)
    idle_hours = money.idle_draft_hours(asked.usage, asked.config)
    total = money.total_cost(found)
    if total is not None and prices is not None:
        total += idle_hours * (prices.draft_hour or 0.0)
    return {
        "total": total,
        "idle_draft_hours": idle_hours,
        "targets": {
            name: {
                **_bill(bill.whole),
                "idle_hours": bill.idle.hours,
                "idle_cost": bill.idle.cost,
                "tenants": {tenant: _bill(own) for tenant, own in bill.tenants.items()},
            }
            for name, bill in found.items()
        },
    }


def _bill(bill: money.Bill) -> Values:
    hours = bill.hours + bill.draft_hours
    return {
        **asdict(bill),
        "hours_per_million_output": bill.per_million(hours, bill.output_tokens),
        "hours_per_million_tokens": bill.per_million(hours, bill.tokens),
        "cost_per_million_output": bill.per_million(bill.cost, bill.output_tokens),
        "cost_per_million_tokens": bill.per_million(bill.cost, bill.tokens),
    }


def _replicas(
    asked: Question,
    carriers: Mapping[str, Carrier],
    per_s: Mapping[str, float],
    needed: Mapping[str, int],
) -> Values:
    found = {}
    for name, carrier in carriers.items():
        target = asked.config.targets[name]
        others = sum(needed.values()) - needed[name]
        rate = carrier.rate_of(max(1, needed[name]), others) / max(1, needed[name])
        price = asked.config.prices.of(name, target) if asked.config.prices else None
        found[name] = {
            "requests_per_s": per_s[name],
            "prompt_tokens": carrier.shape.prompt_tokens,
            "output_tokens": carrier.shape.output_tokens,
            "texts": carrier.texts,
            "replica_tokens_per_s": rate * carrier.shape.output_tokens,
            "needed": needed[name],
            "most": target.most_replicas,
            "cost_per_hour": None if price is None else price * needed[name],
        }
    return found


def _speculation(carrier: Carrier) -> Values | None:
    if carrier.guessing is None:
        return None
    return {
        "acceptance": carrier.guessing.acceptance,
        "worth": drafts.worth(carrier),
        "break_even": drafts.break_even(carrier),
        "replicas_of_one_draft": len(carrier.paces),
    }


def _draft(
    asked: Question, carriers: Mapping[str, Carrier], needed: Mapping[str, int]
) -> Values | None:
    config = asked.config
    if config.draft is None:
        return None
    counts = {name: max(1, number) for name, number in needed.items()}
    sharing = drafts.sharing_of(carriers, counts, config.draft.kv_cache_mib)
    price = config.prices.draft_hour if config.prices else None
    if sharing is None:
        return {"pays": False, "cost_per_hour": price}
    return {
        "pays": True,
        "cost_per_hour": price,
        **asdict(sharing),
        "saved_drafts": sharing.saved_drafts,
        "saved_per_hour": None if price is None else price * sharing.saved_drafts,
        "saved_cache_mib": sharing.cache_mib * sharing.saved_drafts,
        "saved_draft_time": 1 - sharing.shared_guess_s / sharing.private_guess_s,
    }


def _too_few(asked: Question, needed: Mapping[str, int]) -> Iterator[str]:
    for name, target in asked.config.targets.items():
        most = target.most_replicas
        if needed[name] > most:
            yield f"{name}: the load needs {needed[name]} replicas, of at most {most}"


def _drifts(asked: Question) -> list[str]:
    found: dict[str, list[drift.Drift]] = {}
    for name in asked.config.targets:
        usage = asked.usage.of(name)
        plans = asked.plans.targets.get(name) if asked.plans else None
        tests = [drift.between_halves(usage)]
        if plans is not None:
            tests.append(drift.against_plans(usage, plans))
        found[name] = [each for each in tests if each is not None]
    return drift.warnings_of(found)


def _forecast(asked: Question, name: str, carriers: Mapping[str, Carrier]) -> Values | None:
    usage, hours = asked.usage.of(name), forecast.DAY * asked.forecast_days
    series = {"requests": np.ones(len(usage)), "tokens": usage.completion_tokens.astype(np.float64)}
    found: Values = {}
    for what, weights in series.items():
        known = forecast.hourly_of(usage, weights, asked.usage.span_s)
        told = forecast.forecast(known, hours)
        if told is None:
            return None
        found[what] = {
            "method": told[0].method,
            "trials": [asdict(each) for each in told[1]],
            "begins_s": told[0].begins_s,
            **{key: np.round(getattr(told[0], key), 2).tolist() for key in BOUNDS},
        }
        if what == "tokens":
            found |= _outlook(told[0], asked, name, carriers)
    return found


def _outlook(
    told: forecast.Forecast, asked: Question, name: str, carriers: Mapping[str, Carrier]
) -> Values:
    targets, carrier = asked.config.targets, carriers[name]
    most = targets[name].most_replicas
    others = sum(target.most_replicas for target in targets.values()) - most
    output = carrier.shape.output_tokens
    capacity = carrier.rate_of(most, others) * output * forecast.HOUR_S
    outlook = forecast.Outlook(told, capacity)
    peaks = {"likely": float(told.likely.max()), "high": float(told.high.max())}
    return {
        "capacity_tokens_per_hour": capacity,
        "replicas_at_peak": {
            key: carrier.replicas_for(peak / output / forecast.HOUR_S, others)
            for key, peak in peaks.items()
        },
        "runs_out": {
            "earliest_s": outlook.earliest_s,
            "likely_s": outlook.likely_s,
            "latest_s": outlook.latest_s,
        },
    }
