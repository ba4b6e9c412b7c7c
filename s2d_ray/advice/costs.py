"""What tokens cost, by target and tenant: replica-hours from records, priced by the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from s2d_ray.advice.hours import ReplicaHours, replica_hours
from s2d_ray.advice.records import Usage
from s2d_ray.config import AppConfig

MILLION = 1e6


@dataclass(frozen=True)
class Bill:
    """Of one tenant, or of all, at one target.

    hours: of replicas; draft_hours: its share of the draft's. cost: of both; None without a price.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    hours: float
    draft_hours: float
    cost: float | None

    @property
    def tokens(self) -> int:
        """Prompt and output."""
        return self.prompt_tokens + self.output_tokens

    def per_million(self, amount: float | None, tokens: int) -> float | None:
        """An amount over a million tokens; None where there is none, or no token."""
        return None if amount is None or not tokens else amount * MILLION / tokens


@dataclass(frozen=True)
class TargetBill:
    """Of one target. whole: all tenants and the idle time; idle: what is nobody's."""

    tenants: dict[str, Bill]
    idle: Bill
    whole: Bill


def bills(usage: Usage, config: AppConfig) -> dict[str, TargetBill]:
    """By target, all over the same span; the draft's hours go by drafted tokens."""
    began_s, ended_s = span_s = usage.span_s
    drafted = int(usage.drafted_tokens.sum())
    draft_hours = (ended_s - began_s) / 3600 if config.draft is not None else 0.0
    per_guess = draft_hours / drafted if drafted else 0.0
    found = {}
    for name, target in config.targets.items():
        own = usage.of(name)
        hours = replica_hours(own, target, span_s)
        price = config.prices.of(name, target) if config.prices else None
        draft_price = config.prices.draft_hour if config.prices else None
        found[name] = _bill(own, hours, per_guess, price, draft_price)
    return found


def idle_draft_hours(usage: Usage, config: AppConfig) -> float:
    """Hours of a draft that nobody asked; what was asked for pays for the whole time."""
    began_s, ended_s = usage.span_s
    unasked = config.draft is not None and not usage.drafted_tokens.any()
    return (ended_s - began_s) / 3600 if unasked else 0.0


def _bill(
    usage: Usage,
    hours: ReplicaHours,
    per_guess: float,
    price: float | None,
    draft_price: float | None,
) -> TargetBill:
    def bill(own: Usage, own_hours: float) -> Bill:
        draft_hours = per_guess * int(own.drafted_tokens.sum())
        cost = None if price is None else price * own_hours + (draft_price or 0.0) * draft_hours
        prompt, output = int(own.prompt_tokens.sum()), int(own.completion_tokens.sum())
        return Bill(len(own), prompt, output, own_hours, draft_hours, cost)

    nobody = usage.where(np.zeros(len(usage), dtype=np.bool_))
    return TargetBill(
        {name: bill(usage.where(usage.tenants == name), h) for name, h in hours.tenants.items()},
        bill(nobody, hours.idle),
        bill(usage, hours.total),
    )


def total_cost(found: Mapping[str, TargetBill]) -> float | None:
    """Of all targets; None where one has no price."""
    costs = [bill.whole.cost for bill in found.values()]
    return None if None in costs else sum(cost for cost in costs if cost is not None)
