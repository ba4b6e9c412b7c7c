"""Traces: when requests come, whose they are, how long. Drawn by a seed, or read from a file."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field

from s2d_ray.config import Section, check_section
from s2d_ray.errors import ConfigError
from s2d_ray.simulate.request import Arrival

MOST_LINES = 5_000_000
PROMPT_MEDIAN, OUTPUT_MEDIAN = 120, 60
SPREAD = 0.6
"""Standard deviation of the logarithm of a length."""
LENGTH_TAIL, GAP_TAIL = 1.2, 1.5
"""Exponents of Pareto's law: the mean is finite, the variance is not."""
CAPPED = 0.5
"""Share of requests that cap their output themselves, at the next power of two."""
CALM_S, BURST_S, BURST = 60.0, 15.0, 8.0
"""Mean length of both states of a bursty trace, and the rate of a burst over that of a calm."""
DAY_S = 86_400.0
SWING = 0.8
"""Of a diurnal rate around its mean."""


class Kind(StrEnum):
    """How arrivals are drawn.

    steady: Poisson. bursty: Poisson whose rate a Markov chain switches. diurnal: Poisson whose rate
    goes up and down once a day, or once in a whole trace that is shorter. heavy-tailed: gaps and
    lengths by Pareto's law.
    """

    STEADY = "steady"
    BURSTY = "bursty"
    DIURNAL = "diurnal"
    HEAVY_TAILED = "heavy-tailed"


@dataclass(frozen=True)
class Caps:
    """What a target takes: longest prompt and output together, and output that is reserved."""

    max_context: int
    max_tokens: int


@dataclass(frozen=True)
class Mix:
    """Whose requests they are. tenants: the n-th asks for 1/n of what the first one does."""

    targets: dict[str, Caps]
    tenants: Sequence[str]


def draw_trace(
    kind: Kind, mix: Mix, *, duration_s: float, per_s: float, seed: int
) -> Iterator[Arrival]:
    """Arrivals of a whole trace, in order of time, `per_s` of them in the mean."""
    draw = random.Random(seed)
    targets = list(mix.targets)
    weights = list(itertools.accumulate(1 / (n + 1) for n in range(len(mix.tenants))))
    for at_s in _times(kind, random.Random(f"{seed} times"), per_s, duration_s):
        tenant = draw.choices(mix.tenants, cum_weights=weights)[0]
        target = draw.choice(targets)
        caps = mix.targets[target]
        prompt = _length(kind, draw, PROMPT_MEDIAN, caps.max_context - 1)
        most = min(caps.max_tokens, caps.max_context - prompt)
        output = _length(kind, draw, OUTPUT_MEDIAN, most)
        if draw.random() < CAPPED:
            most = min(most, 1 << (output - 1).bit_length())
        yield Arrival(at_s, tenant, target, prompt, output, most)


def _length(kind: Kind, draw: random.Random, median: int, most: int) -> int:
    if kind is Kind.HEAVY_TAILED:
        length = median / 2 ** (1 / LENGTH_TAIL) * draw.paretovariate(LENGTH_TAIL)
    else:
        length = draw.lognormvariate(math.log(median), SPREAD)
    return min(max(1, round(length)), most)


def _times(kind: Kind, draw: random.Random, per_s: float, duration_s: float) -> Iterator[float]:
    times: Iterator[float]
    match kind:
        case Kind.STEADY:
            gaps = (draw.expovariate(per_s) for _ in itertools.count())
            times = itertools.accumulate(gaps)
        case Kind.HEAVY_TAILED:
            least_s = (1 - 1 / GAP_TAIL) / per_s
            times = itertools.accumulate(
                least_s * draw.paretovariate(GAP_TAIL) for _ in itertools.count()
            )
        case Kind.DIURNAL:
            times = _diurnal(draw, per_s, min(DAY_S, duration_s))
        case Kind.BURSTY:
            times = _bursty(draw, per_s)
    return itertools.takewhile(lambda at_s: at_s < duration_s, times)


def _diurnal(draw: random.Random, per_s: float, day_s: float) -> Iterator[float]:
    """Thinned out of a steady trace of the highest rate; it begins in the night."""
    highest = per_s * (1 + SWING)
    at_s = 0.0
    while True:
        at_s += draw.expovariate(highest)
        rate = per_s * (1 - SWING * math.cos(2 * math.pi * at_s / day_s))
        if draw.random() * highest < rate:
            yield at_s


def _bursty(draw: random.Random, per_s: float) -> Iterator[float]:
    calm = per_s * (CALM_S + BURST_S) / (CALM_S + BURST * BURST_S)
    begins_s = 0.0
    for mean_s, rate in itertools.cycle([(CALM_S, calm), (BURST_S, BURST * calm)]):
        ends_s = begins_s + draw.expovariate(1 / mean_s)
        at_s = begins_s
        # Without memory: what is left of a gap when the rate changes is drawn anew.
        while (at_s := at_s + draw.expovariate(rate)) < ends_s:
            yield at_s
        begins_s = ends_s


class TraceLine(Section):
    """One line of a trace file."""

    at_s: float = Field(ge=0, allow_inf_nan=False, description="When it comes, from the start.")
    prompt_tokens: int = Field(ge=1, description="Its prompt.")
    output_tokens: int = Field(ge=1, description="What the target will write.")
    max_tokens: int | None = Field(
        None, ge=1, description="What it asks for; none: the target's default, at least its output."
    )
    target: str | None = Field(None, description="None: the config's first one.")
    tenant: str | None = Field(None, description="None: the first one.")


def read_trace(path: Path, mix: Mix) -> list[Arrival]:
    """Read a JSONL file, in any order. Raises ConfigError naming the line and its field."""
    arrivals = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if number > MOST_LINES:
                    raise ConfigError(f"{path}: more than {MOST_LINES:,} lines")
                if line.strip():
                    arrivals.append(_arrival(line, f"{path}, line {number}", mix))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None
    if not arrivals:
        raise ConfigError(f"{path}: no request in it")
    return sorted(arrivals, key=lambda arrival: arrival.at_s)


def _arrival(text: str, origin: str, mix: Mix) -> Arrival:
    try:
        tree: Any = json.loads(text)
    except ValueError:
        raise ConfigError(f"{origin}: not JSON") from None
    line = check_section(TraceLine, tree, origin)
    target = line.target or next(iter(mix.targets))
    tenant = line.tenant or mix.tenants[0]
    if target not in mix.targets:
        raise ConfigError(f"{origin}: target: {target!r} is not in the config")
    if tenant not in mix.tenants:
        raise ConfigError(f"{origin}: tenant: there is no {tenant!r}")
    caps = mix.targets[target]
    room = caps.max_context - line.prompt_tokens
    most = line.max_tokens or min(max(caps.max_tokens, line.output_tokens), max(room, 1))
    if line.output_tokens > min(most, room):
        raise ConfigError(
            f"{origin}: output_tokens: {line.output_tokens} are more than max_tokens or the "
            f"context of {caps.max_context} allow"
        )
    return Arrival(line.at_s, tenant, target, line.prompt_tokens, line.output_tokens, most)
