"""Streams that go on and on beside faults, each compared with its undisturbed run."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import httpx

PATIENCE_S = 180.0
"""A request that has no whole text after so long, retries included, is lost."""

UNDISTURBED_STREAMS = 8
"""All at once, the last one may wait for longer than patience lasts."""

RETRY_S = 0.5
"""Before a request is sent again whose connection broke; a refusal says itself how long."""

FEATURES: Sequence[Mapping[str, Any]] = (
    {},
    {"temperature": 0.8},
    {"temperature": 1.0, "frequency_penalty": 0.6, "presence_penalty": 0.3},
    {"temperature": 0.7, "n": 2},
    {"top_p": 0.9, "temperature": 1.2, "logit_bias": {"9": 2.0}},
    {"temperature": 0.9, "stop": ["zq", "the"], "min_tokens": 8},
)
"""What requests ask for beside a text; what a stream was told of it must outlive its replica."""

MODES = ("auto", "force", "auto", "off")


@dataclass(frozen=True)
class Ask:
    """One request. body: as it is sent, without `stream`."""

    body: Mapping[str, Any]

    def with_mode(self, mode: str) -> Ask:
        """The same text, drafted in another way."""
        return Ask({**self.body, "s2d": {**self.body["s2d"], "mode": mode}})


def asks_of(targets: Sequence[str], num: int, max_tokens: int) -> list[Ask]:
    """Different requests, spread over the targets, each with a seed of its own."""
    return [
        Ask(
            {
                "model": targets[number % len(targets)],
                "prompt": f"Story {number}: once upon a time",
                "max_tokens": max_tokens,
                "seed": 7_000 + number,
                "temperature": 0.0,
                "ignore_eos": True,
                "s2d": {"mode": MODES[number // len(targets) % len(MODES)], "max_proposal": 4},
                **FEATURES[number % len(FEATURES)],
            }
        )
        for number in range(num)
    ]


class End(Enum):
    """How one try of a request ended.

    REFUSED: 503 with retry-after, before any text. BROKEN: no connection, or it was cut, or what
    stands before the routers says that it lost one. FAILED: any other error that a client is told.
    """

    WHOLE = "whole"
    REFUSED = "refused"
    BROKEN = "broken"
    FAILED = "failed"


@dataclass
class Heard:
    """What one try brought. seed: as it was returned. texts, reasons: of each choice."""

    end: End = End.BROKEN
    seed: int = 0
    retry_after_s: float = 0.0
    why: str = ""
    texts: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    num_tokens: int = 0

    def take(self, chunk: Mapping[str, Any]) -> None:
        """One event of the stream."""
        if chunk.get("error"):
            self.end, self.why = End.FAILED, str(chunk["error"])
        if chunk.get("usage"):
            self.num_tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk.get("choices", ()):
            index = choice["index"]
            self.texts[index] = self.texts.get(index, "") + choice["text"]
            if choice["finish_reason"]:
                self.reasons[index] = choice["finish_reason"]

    def is_same_as(self, whole: Heard) -> bool:
        """Whether this is that text, or its beginning if it was cut."""
        if self.end is End.WHOLE:
            mine, theirs = (
                (heard.texts, heard.reasons, heard.num_tokens) for heard in (self, whole)
            )
            return mine == theirs
        return all(whole.texts[index].startswith(text) for index, text in self.texts.items())


async def hear(client: httpx.AsyncClient, ask: Ask, seed: int) -> Heard:
    """One try of a request, as a stream."""
    heard = Heard(seed=seed)
    options = {"stream": True, "stream_options": {"include_usage": True}, "seed": seed}
    try:
        async with client.stream("POST", "/v1/completions", json={**ask.body, **options}) as answer:
            heard.seed = int(answer.headers.get("x-s2d-seed", seed))
            if answer.status_code != 200:
                _refused(heard, answer, (await answer.aread()).decode(errors="replace"))
                return heard
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    heard.end = End.WHOLE
                elif line.startswith("data: "):
                    heard.take(json.loads(line[6:]))
    except httpx.TransportError as error:
        heard.end, heard.why = End.BROKEN, repr(error)
    if heard.end is End.BROKEN:
        heard.why = heard.why or "the stream ended without its last event"
    return heard


def _refused(heard: Heard, answer: httpx.Response, body: str) -> None:
    heard.why = f"{answer.status_code}: {body[:300]}"
    if answer.status_code == 503 and "retry-after" in answer.headers:
        heard.end, heard.retry_after_s = End.REFUSED, float(answer.headers["retry-after"])
    elif not body.startswith("{"):  # our errors are JSON; this one is the proxy's
        heard.end = End.BROKEN
    else:
        heard.end = End.FAILED


@dataclass
class Served:
    """A request with all its tries. Times are of `time.monotonic`.

    refusals: 503s before the first token. breaks: when, and what the client saw. lost: why there
    is no text in the end, or empty. is_wrong: another text than the undisturbed one.
    """

    number: int
    begun_s: float
    ended_s: float = 0.0
    refusals: list[str] = field(default_factory=list)
    breaks: list[tuple[float, str]] = field(default_factory=list)
    lost: str = ""
    is_wrong: bool = False


class Load:
    """Clients that ask again as soon as they are answered. `done`: requests that have ended."""

    def __init__(self, url: str, asks: Sequence[Ask]) -> None:
        self._asks = asks
        self._url = url
        self._undisturbed: list[Heard] = []
        self.done: list[Served] = []
        self.open: dict[int, Served] = {}
        self._number = itertools.count()
        self.is_over = False

    def write_undisturbed(self) -> None:
        """Have every text written once, without a draft. Raises RuntimeError if one is refused."""

        turns = asyncio.Semaphore(UNDISTURBED_STREAMS)

        async def write(client: httpx.AsyncClient, ask: Ask) -> Heard:
            async with turns:
                heard = await hear(client, ask.with_mode("off"), ask.body["seed"])
            if heard.end is not End.WHOLE:
                raise RuntimeError(f"no undisturbed run of {ask.body}: {heard.why}")
            return heard

        async def write_all() -> list[Heard]:
            async with self._client() as client:
                return await asyncio.gather(*(write(client, ask) for ask in self._asks))

        self._undisturbed = asyncio.run(write_all())

    def run(self, num_streams: int) -> None:
        """Ask on, so many streams at a time, until `is_over`; each ends its request."""

        async def ask_on() -> None:
            async with self._client() as client:
                await asyncio.gather(*(self._ask_on(client) for _ in range(num_streams)))

        asyncio.run(ask_on())

    async def _ask_on(self, client: httpx.AsyncClient) -> None:
        while not self.is_over:
            number = next(self._number)
            served = self.open[number] = Served(number, time.monotonic())
            try:
                await self._serve(client, served)
            finally:
                served.ended_s = time.monotonic()
                self.done.append(self.open.pop(number))

    async def _serve(self, client: httpx.AsyncClient, served: Served) -> None:
        """Try until the text is whole, as a careful client would."""
        index = served.number % len(self._asks)
        ask, undisturbed = self._asks[index], self._undisturbed[index]
        seed = ask.body["seed"]
        while True:
            heard = await hear(client, ask, seed)
            seed = heard.seed
            served.is_wrong |= not heard.is_same_as(undisturbed)
            is_late = time.monotonic() - served.begun_s > PATIENCE_S
            if heard.end is End.WHOLE:
                return
            if heard.end is End.FAILED or is_late:
                served.lost = heard.why
                return
            if heard.end is End.REFUSED:
                served.refusals.append(heard.why)
                await asyncio.sleep(heard.retry_after_s)
            else:
                served.breaks.append((time.monotonic(), heard.why))
                await asyncio.sleep(RETRY_S)

    def _client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self._url, timeout=PATIENCE_S, limits=limits)
