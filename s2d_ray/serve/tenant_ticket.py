"""One tenant's request from its question to its bill: what it may take, what it took."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from s2d_ray.engine.messages import (
    ChatPrompt,
    Delta,
    Event,
    Finished,
    GenerateRequest,
    Prompt,
    Started,
    TextPrompt,
    Usage,
)
from s2d_ray.errors import RequestError
from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.ledger import Granted
from s2d_ray.policy.limits import ratelimit_headers
from s2d_ray.policy.usage import UsageRecord
from s2d_ray.serve.edge import CLIENT_GONE
from s2d_ray.serve.gate import Visit
from s2d_ray.serve.ledger_messages import Ended


class Admission(Protocol):
    """What a ticket asks of the gate."""

    async def admit(self, ask: Ask) -> Granted:
        """Wait for a request's turn. Raises: RequestError if it does not come."""

    def end(self, ended: Ended) -> None:
        """A grant is over."""


@dataclass
class _Text:
    """What one text of the request has taken so far."""

    prompt: Prompt
    prompt_tokens: int = 0
    num_bytes: int = 0
    usage: Usage | None = None

    @property
    def output_tokens(self) -> int:
        """Written tokens; of a text that was broken off at most as many as its bytes."""
        return self.usage.completion_tokens if self.usage else self.num_bytes


class LedgerTicket:
    """All texts of one request run on one grant."""

    def __init__(self, admission: Admission, visit: Visit) -> None:
        self._admission = admission
        self._visit = visit
        self._arrived_s = time.monotonic()
        self._first_token_s: float | None = None
        self._texts: list[_Text] = []
        self._granting: asyncio.Task[Granted] | None = None

    async def run(
        self, request: GenerateRequest, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """The same events, once the visit may run. Raises: RequestError if it may not."""
        text = _Text(request.prompt)
        self._texts.append(text)
        async with aclosing(events):
            await asyncio.shield(self._grant())
            async for event in events:
                self._take(text, event)
                yield event

    def headers(self) -> dict[str, str]:
        """What is left to the tenant."""
        granted = self._granted
        return ratelimit_headers(granted.allowances) if granted else {}

    async def close(self, error: Exception | None) -> None:
        """Leave the queue, or end the grant and settle what it took."""
        if self._granting is not None:
            self._granting.cancel()
            await asyncio.wait([self._granting])
        granted = self._granted
        if granted is not None:
            record = self._record(granted, self._status(error))
            self._admission.end(Ended(granted.grant, self._used(), record))

    @property
    def _granted(self) -> Granted | None:
        task = self._granting
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    def _grant(self) -> asyncio.Task[Granted]:
        if self._granting is None:
            caller = self._visit.caller
            assert caller is not None
            ask = Ask(
                self._visit.request_id,
                caller.name,
                self._visit.target.name,
                reservation(self._visit),
                deadline_s=0.0,  # the ledger's clock is another one
                num_texts=len(self._visit.requests),
                num_bytes=self._visit.num_bytes,
            )
            self._granting = asyncio.create_task(self._admission.admit(ask))
        return self._granting

    def _take(self, text: _Text, event: Event) -> None:
        match event:
            case Started():
                text.prompt_tokens = event.prompt_tokens
            case Delta():
                text.num_bytes += len(event.text.encode())
                if self._first_token_s is None:
                    self._first_token_s = time.monotonic()
            case Finished():
                text.usage = event.usage

    def _status(self, error: Exception | None) -> int:
        if error is not None:
            return error_status(error)
        return 200 if all(text.usage is not None for text in self._texts) else CLIENT_GONE

    def _used(self) -> int:
        return self._prompt_tokens() + sum(text.output_tokens for text in self._texts)

    def _prompt_tokens(self) -> int:
        """Each prompt counts once, however many texts are written for it."""
        prompts = {id(text.prompt): text.prompt_tokens for text in self._texts}
        return sum(prompts.values())

    def _record(self, granted: Granted, status: int) -> UsageRecord:
        assert self._visit.caller is not None
        usages = [text.usage for text in self._texts if text.usage is not None]
        now_s = time.monotonic()
        first_s = self._first_token_s
        return UsageRecord(
            ended_s=time.time(),
            request_id=self._visit.request_id,
            tenant=self._visit.caller.name,
            key_id=self._visit.caller.key_id,
            target=self._visit.target.name,
            status=status,
            reserved_tokens=granted.grant.tokens,
            prompt_tokens=self._prompt_tokens(),
            cached_tokens=sum(usage.cached_tokens for usage in usages),
            completion_tokens=sum(text.output_tokens for text in self._texts),
            drafted_tokens=sum(usage.drafted_tokens for usage in usages),
            accepted_tokens=sum(usage.accepted_tokens for usage in usages),
            queue_ms=1_000 * granted.queue_s,
            first_token_ms=None if first_s is None else 1_000 * (first_s - self._arrived_s),
            total_ms=1_000 * (now_s - self._arrived_s),
        )


def error_status(error: Exception) -> int:
    """The HTTP status that an error becomes."""
    return error.status if isinstance(error, RequestError) else 500


def reservation(visit: Visit) -> int:
    """Tokens that a request may take: its prompts once, and the longest output of every text."""
    target, texts = visit.target, visit.requests
    prompts = {id(text.prompt): prompt_bound(text.prompt) for text in texts}
    room = target.max_context - 1
    limits: Sequence[int | None] = [
        text.sampling.max_tokens or target.default_max_tokens for text in texts
    ]
    outputs = sum(room if limit is None else min(limit, room) for limit in limits)
    return sum(min(bound, room) for bound in prompts.values()) + outputs


def prompt_bound(prompt: Prompt) -> int:
    """At most so many tokens, near enough: one for each byte, braces and roles counted for the
    tokens that a template adds. What it falls short of is charged at the end.
    """
    if isinstance(prompt, ChatPrompt):
        return len(json.dumps([prompt.messages, prompt.tools], ensure_ascii=False).encode())
    if isinstance(prompt, TextPrompt):
        return len(prompt.text.encode()) + 1
    return len(prompt.ids)
