"""What advice rests on, in sentences, each with where to change it."""

from __future__ import annotations

from collections.abc import Iterator

from s2d_ray.advice import advise, drift, forecast
from s2d_ray.advice.advise import Question, Values


def assumptions(asked: Question, values: Values, costs_given: bool) -> list[str]:
    """Of this report. costs_given: by the plan file or --costs, for all targets."""
    return [*_of_costs(asked, costs_given), *_of_records(asked, values), *_of_load(asked, values)]


def _of_costs(asked: Question, costs_given: bool) -> Iterator[str]:
    for origin in dict.fromkeys(each.origin for each in asked.costs.values()):
        yield f"Steps cost what they cost on {origin.host}, commit {origin.commit}."
    if not costs_given:
        yield (
            "These are packaged costs of a small model: for yours give --plans (s2d calibrate) or "
            "--costs (s2d bench engine --curves)."
        )
    yield (
        "A replica carries what the scaling rule lets it carry (docs/scaling.md), with hardware of "
        "its own, and a draft on hardware of its own."
    )
    yield (
        "All requests of a target are like its mean one. Waits, bursts within an hour, failures "
        "and the limits of the KV cache are left out: s2d simulate has waits and bursts."
    )
    for name in asked.config.targets:
        if asked.config.draft is not None:
            chance, source = advise.acceptance(asked, name)
            told = "none: plain decoding" if chance is None else f"{chance:.2f}"
            yield f"{name}: P(a guess is right, if those before it are): {told} ({source})."
    if asked.config.draft is not None:
        yield (
            "Proposals are chains of plan.max_proposal guesses by the shallowest exit, tier 0's "
            "counted like the draft's; replicas of other targets ask the draft as often as those "
            "of the target in question."
        )


def _of_records(asked: Question, values: Values) -> Iterator[str]:
    if not len(asked.usage):
        yield "There are no usage records: no cost of tokens, drift or forecast."
        return
    yield (
        "While n texts run on R replicas, each is charged min(1, R / n) of a replica; what no text "
        "occupies is idle. A request with several choices counts as one text."
    )
    if any(target.autoscaling for target in asked.config.targets.values()):
        yield (
            "Records do not say how many replicas there were: with autoscaling, as many as the "
            "rule wants for the most texts in each downscale_delay_s; else num_replicas, always."
        )
    if asked.config.draft is not None:
        yield "The draft's hours go by drafted tokens, its idle time included."
    yield from _of_prices(asked)
    if others := values["usage"]["not_in_config"]:
        told = ", ".join(f"{name} ({count})" for name, count in others.items())
        yield f"Records of what is no target of the config are left out: {told}."
    yield (
        f"Drift is told beyond noise only: of {1 / drift.LEVEL:.0f} reports without drift one "
        f"warns. It takes {drift.FEWEST} requests with guesses in each half."
    )


def _of_prices(asked: Question) -> Iterator[str]:
    prices = asked.config.prices
    if prices is None:
        yield "The config has no prices: costs are in replica-hours."
        return
    yield f"Prices are those of the config, in {prices.currency}, and hold for the whole time."
    for name, target in asked.config.targets.items():
        if prices.of(name, target) is None:
            yield f"{name}: no price is for it, so its costs, and the total, are left out."
    if asked.config.draft is not None and prices.draft_hour is None:
        yield "The draft has no price (prices.draft_hour): it costs nothing here."


def _of_load(asked: Question, values: Values) -> Iterator[str]:
    if asked.load_per_s is not None:
        yield "The load is --load, shared among targets as in the records, or evenly."
    elif len(asked.usage):
        yield "The load of each target is that of its busiest hour in the records."
    if not len(asked.usage):
        yield "Lengths are those of s2d simulate's traces."
    if not asked.forecast_days:
        return
    yield (
        "Hours without records had no load; refused requests are no load. What comes is like what "
        f"was: {forecast.CHANCE:.0%} of the hours should lie in their interval, and the load grows "
        "or falls by a constant slope."
    )
    short = [name for name, found in values["forecast"].items() if found is None]
    if short:
        yield (
            f"No forecast of {', '.join(short)}: it takes {forecast.LEAST_DAYS} whole days of "
            "records."
        )
    days = values["usage"]["hours"] / forecast.DAY
    if forecast.LEAST_DAYS <= days < forecast.MODEL_DAYS:
        yield (
            f"Under {forecast.MODEL_DAYS} days of records: each hour is taken to be as the day "
            "before."
        )
    elif forecast.MODEL_DAYS <= days < forecast.WEEK_DAYS:
        yield f"Under {forecast.WEEK_DAYS} days of records: weekdays are not told apart."
