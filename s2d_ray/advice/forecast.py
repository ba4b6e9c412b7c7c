"""A forecast of an hourly load with its seasons, and how good such forecasts were.

The model is statsmodels' structural one: a level that drifts with a constant slope, harmonics of
the day, and of the week where there is enough of it, on square roots, which make counts about
equally noisy. Beside it stands the seasonal naive forecast, the hour of one day before; whichever
was nearer on held-out last days is used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from s2d_ray.advice.records import Floats, Usage
from s2d_ray.errors import RunError

HOUR_S = 3600.0
DAY, WEEK = 24, 168
HARMONICS = {DAY: 4, WEEK: 6}
LEAST_DAYS, MODEL_DAYS, WEEK_DAYS = 2, 4, 21
"""Whole days from which on there is a forecast, the model is tried, and weeks count."""

HELD_OUT, KEPT_DAYS = 3, 3
"""Most days that are held out, and least days that are left to each of their forecasts."""

CHANCE = 0.9
"""That a load lies within its interval."""


@dataclass(frozen=True)
class Hourly:
    """A load by whole hours. begins_s: of the first one, Unix seconds. values: [hours]."""

    begins_s: float
    values: Floats

    @property
    def days(self) -> float:
        """Days that it covers."""
        return len(self.values) / DAY


@dataclass(frozen=True)
class Forecast:
    """Loads of the hours behind those that are known, all [hours]: likely, and an interval of
    `CHANCE`. method: in words."""

    begins_s: float
    likely: Floats
    low: Floats
    high: Floats
    method: str


@dataclass(frozen=True)
class Trial:
    """How a forecast did on hours it had not seen.

    mase: mean absolute error over that of the seasonal naive forecast on the hours before.
    coverage: share of the hours that lay within their interval. days: that were forecast.
    """

    method: str
    mase: float
    coverage: float
    days: int


Method = Callable[[Hourly, int], Forecast]


def hourly_of(usage: Usage, weights: Floats, span_s: tuple[float, float]) -> Hourly:
    """Sums of weights [requests] by the hour of arrival, over the whole hours of a span."""
    first, last = math.ceil(span_s[0] / HOUR_S), math.floor(span_s[1] / HOUR_S)
    number = max(0, last - first)
    place = np.floor(usage.arrivals_s / HOUR_S).astype(np.int64) - first
    inside = (place >= 0) & (place < number)
    values = np.bincount(place[inside], weights=weights[inside], minlength=number)
    return Hourly(first * HOUR_S, values.astype(np.float64))


def need_statsmodels() -> None:
    """Raises RunError if the library is not installed."""
    try:
        import statsmodels  # noqa: F401
    except ImportError:
        raise RunError(
            "statsmodels is missing, by which load is forecast; install it: "
            "pip install 's2d-ray[advise]'"
        ) from None


def forecast(known: Hourly, hours: int) -> tuple[Forecast, list[Trial]] | None:
    """The next hours, by the method that did better on the last days, and how both did on them.

    None of less than `LEAST_DAYS`. Raises RunError where the library is missing.
    """
    if known.days < LEAST_DAYS:
        return None
    if known.days < MODEL_DAYS or not np.ptp(known.values[:-DAY]):
        return seasonal_naive(known, hours), []
    days = min(HELD_OUT, int(known.days) - KEPT_DAYS)
    trials = {method: trial(known, method, days) for method in (structural, seasonal_naive)}
    best = min(trials, key=lambda method: trials[method].mase)
    return best(known, hours), list(trials.values())


def trial(known: Hourly, method: Method, days: int, ahead: int = 1) -> Trial:
    """Forecast each of the last days from what was known so many days before its end."""
    errors, covered = [], []
    for day in range(days):
        end = len(known.values) - DAY * day
        before = Hourly(known.begins_s, known.values[: end - DAY * ahead])
        guess, seen = method(before, DAY * ahead), known.values[end - DAY : end]
        scale = float(np.abs(before.values[DAY:] - before.values[:-DAY]).mean())
        error = float(np.abs(guess.likely[-DAY:] - seen).mean())
        errors.append(error / scale if scale else math.inf)
        covered.append(float(((guess.low[-DAY:] <= seen) & (seen <= guess.high[-DAY:])).mean()))
    return Trial(guess.method, float(np.mean(errors)), float(np.mean(covered)), days)


def seasonal_naive(known: Hourly, hours: int) -> Forecast:
    """Each hour as on the day before. The interval is that of the differences between days, wider
    with each day ahead."""
    roots = _roots(known.values)
    ahead = np.arange(hours)
    likely = roots[-DAY:][ahead % DAY]
    spread = float(np.sqrt(np.square(roots[DAY:] - roots[:-DAY]).mean()))
    half = _width() * spread * np.sqrt(1 + ahead // DAY)
    return _forecast(known, likely, half, "the hour of the day before")


def structural(known: Hourly, hours: int) -> Forecast:
    """The model. Raises RunError where the library is missing."""
    need_statsmodels()
    from statsmodels.tools.sm_exceptions import ConvergenceWarning
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    periods = [DAY, WEEK] if known.days >= WEEK_DAYS else [DAY]
    model = UnobservedComponents(
        _roots(known.values),
        level="lldtrend",
        freq_seasonal=[{"period": each, "harmonics": HARMONICS[each]} for each in periods],
        # A day's ups and downs grow with the load, so they may change from day to day.
        stochastic_freq_seasonal=[period == DAY for period in periods],
    )
    with warnings.catch_warnings():
        # A fit that stops early may forecast well all the same; its trial tells.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = model.fit(disp=False).get_forecast(hours)
    # Where some harmonics are better known than others, a later hour may seem surer by a hair.
    half = np.maximum.accumulate(_width() * np.asarray(found.se_mean))
    seasons = "days and weeks" if WEEK in periods else "days"
    method = f"level, slope and harmonics of {seasons}"
    return _forecast(known, np.asarray(found.predicted_mean), half, method)


def _roots(values: Floats) -> Floats:
    return np.sqrt(values + 3 / 8)


def _width() -> float:
    """Standard errors on either side."""
    return NormalDist().inv_cdf((1 + CHANCE) / 2)


def _forecast(known: Hourly, likely: Floats, half: Floats, method: str) -> Forecast:
    """From roots back to loads."""
    low, middle, high = (
        np.maximum(0.0, np.square(np.maximum(0.0, roots)) - 3 / 8)
        for roots in (likely - half, likely, likely + half)
    )
    return Forecast(known.begins_s + HOUR_S * len(known.values), middle, low, high, method)


@dataclass(frozen=True)
class Outlook:
    """When a load is first more than the capacity, Unix seconds of the hour; None: not within the
    horizon. earliest: by the upper end of the interval; likely; latest: by the lower end."""

    forecast: Forecast
    capacity: float

    @cached_property
    def earliest_s(self) -> float | None:
        """By the upper end of the interval."""
        return self._first(self.forecast.high)

    @cached_property
    def likely_s(self) -> float | None:
        """By the likely load."""
        return self._first(self.forecast.likely)

    @cached_property
    def latest_s(self) -> float | None:
        """By the lower end of the interval."""
        return self._first(self.forecast.low)

    def _first(self, values: Floats) -> float | None:
        over = np.flatnonzero(values > self.capacity)
        return float(self.forecast.begins_s + HOUR_S * over[0]) if len(over) else None
