"""A service that is played: its text, writers, speeds and counters are made up, not measured.

For looking at the playground where no model runs.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import replace

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Mode,
    Started,
    TokenTrace,
    Usage,
)
from s2d_ray.serve.backend import Health, Routing, TargetHealth
from tests.fakes_http import FakeBackend

EXIT_LAYERS = (2, 4)
PLAN = Plan((0.5,), 0.3, 4)
TEXT = (
    "The sky looks blue because air scatters short waves of light more than long ones. Sunlight "
    "holds all colours at once.\n\nOn its way down, blue light is thrown about in every direction, "
    "so it reaches our eyes from the whole sky. Red light goes nearly straight on. In the evening "
    "the way through the air is longer, most of the blue is lost, and the sun looks red."
)
WRITERS = (None, 2, 2, 4, None, 2, 4, 4, 0, 0, None, 2)


def traces(text: str, *, speculates: bool) -> list[TokenTrace]:
    """The tokens of a text, written in rounds by whoever WRITERS says."""
    pieces = re.findall(r" ?\w{1,6}|\W", text)
    chance = random.Random(1)
    made: list[TokenTrace] = []
    round = 0
    for index, piece in enumerate(pieces):
        by = WRITERS[index % len(WRITERS)] if speculates else None
        round += by is None
        confidence = None if by is None else chance.uniform(0.5, 0.99)
        made.append(TokenTrace(index, piece, by, confidence, round, None if by is None else 0))
    return made


def usage_of(tokens: list[TokenTrace]) -> Usage:
    by = Counter(token.drafted_by for token in tokens if token.drafted_by is not None)
    accepted = by.total()
    rounds = max(token.round for token in tokens)
    return Usage(24, len(tokens), rounds, 2 * accepted, accepted, dict(by))


class PlayedBackend(FakeBackend):
    """Writes the same text for whatever is asked. token_s: of a token that the target writes."""

    def __init__(self, token_s: float = 0.0) -> None:
        super().__init__(costs={"played-large": 1.0, "played-small": 1.0})
        self._token_s = token_s
        self._began_s = time.monotonic()

    def routing(self) -> Routing:
        return replace(super().routing(), plan=PLAN)

    async def generate(self, target: str, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        tokens = traces(TEXT, speculates=request.mode is not Mode.OFF)
        yield Started(24)
        for token in tokens:
            await asyncio.sleep(self._token_s if token.drafted_by is None else 0)
            yield Delta(token.text, (token,))
        why = "off" if request.mode is Mode.OFF else "class chat, fewer than 4 texts"
        yield Finished(FinishReason.STOP, usage_of(tokens), PLAN, why)

    async def health(self) -> Health:
        age_s = time.monotonic() - self._began_s
        busy_s = 0.55 * age_s + math.sin(age_s / 3)
        counters = {
            "replicas": 1.0,
            "queue_depth": float(round(3 + 2.5 * math.sin(age_s / 2))),
            "drafted_tokens": 4_000.0,
            "accepted_tokens": 2_360.0,
        }
        target = TargetHealth(True, True, "closed", counters)
        draft = {
            "busy_microseconds": round(1e6 * busy_s),
            "drafted_by_2": round(300 * busy_s),
            "drafted_by_4": round(120 * busy_s),
            "sessions": 3,
        }
        told = {"alive": True, "exit_layers": EXIT_LAYERS, "counters": draft}
        return Health(True, False, dict.fromkeys(self.costs, target), told)
