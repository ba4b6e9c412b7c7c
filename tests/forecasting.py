"""How good forecasts are on simulated days: `python -m tests.forecasting`, some minutes.

Days are diurnal traces of `s2d simulate`. Each method forecasts each held-out day from the days
before it, one and three days ahead. Prints the table of docs/results/forecast.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
from statsmodels.tsa.exponential_smoothing.ets import ETSModel

from s2d_ray.advice import forecast
from s2d_ray.advice.forecast import DAY, Forecast, Hourly
from tests.usage_records import simulated_days

PER_S = 0.05
"""Mean rate of a day, 180 requests an hour."""

SCENES: dict[str, Callable[[int], float]] = {
    "the same every day": lambda day: 1.0,
    "3 % more each day": lambda day: 1.03**day,
    "half at weekends": lambda day: 0.5 if day % 7 >= 5 else 1.0,
}


def smoothing(known: Hourly, hours: int) -> Forecast:
    """What was compared and not taken: additive exponential smoothing of the same roots."""
    roots = pd.Series(np.sqrt(known.values + 3 / 8))  # its intervals want an index
    model = ETSModel(roots, error="add", trend="add", seasonal="add", seasonal_periods=DAY)
    found = model.fit(disp=False).get_prediction(start=len(roots), end=len(roots) + hours - 1)
    table = found.summary_frame(alpha=1 - forecast.CHANCE)
    low, likely, high = (
        np.square(np.maximum(0.0, table[key])) - 3 / 8 for key in ("pi_lower", "mean", "pi_upper")
    )
    return Forecast(0.0, np.asarray(likely), np.asarray(low), np.asarray(high), "ETS(A,A,A)")


METHODS = {
    "structural model": forecast.structural,
    "exponential smoothing": smoothing,
    "seasonal naive": forecast.seasonal_naive,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=3)
    arguments = parser.parse_args()
    print(
        "| days | known | ahead | method | MASE | in the 90 % interval |\n|---|---|---|---|---|---|"
    )
    for (scene, level), length in itertools.product(SCENES.items(), (7, 28)):
        rates = [PER_S * level(day) for day in range(length + arguments.held_out)]
        series = [simulated_days(rates, seed) for seed in range(1, arguments.seeds + 1)]
        for ahead, (name, method) in itertools.product((1, 3), METHODS.items()):
            trials = [forecast.trial(each, method, arguments.held_out, ahead) for each in series]
            mase = np.mean([trial.mase for trial in trials])
            coverage = np.mean([trial.coverage for trial in trials])
            print(
                f"| {scene} | {length} | {ahead} | {name} | {mase:.2f} | {coverage:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
