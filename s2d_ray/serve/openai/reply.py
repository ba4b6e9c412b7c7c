"""A reply to one request, whole or in chunks: one fold over the events of all its choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from s2d_ray.engine.messages import Delta, Event, Finished, GenerateRequest, TokenTrace, Usage
from s2d_ray.serve.openai.usage import metrics_body, total, totals_body, usage_body


class Choice(Protocol):
    """One text of a reply. Each call tells what is new, as `choices` of the chunks of a stream."""

    def opening(self) -> list[dict[str, Any]]:
        """Before any text."""

    def add(self, event: Delta) -> list[dict[str, Any]]:
        """More text."""

    def end(self, event: Finished) -> list[dict[str, Any]]:
        """The text has ended."""

    def whole(self) -> dict[str, Any]:
        """All of it: what its chunks join to."""


@dataclass(frozen=True)
class Head:
    """What every part of a reply begins with. created: Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(frozen=True)
class Form:
    """Names of the objects of one endpoint."""

    whole: str
    chunk: str


class Reply:
    """The reply to `requests`, each of which writes one of `choices`.

    num_choices: choices of each prompt. include_usage: whether a stream ends with usage.
    """

    def __init__(
        self,
        form: Form,
        head: Head,
        requests: Sequence[GenerateRequest],
        choices: Sequence[Choice],
        *,
        num_choices: int = 1,
        include_usage: bool = False,
    ) -> None:
        self._form = form
        self._head = asdict(head)
        self._request = requests[0]
        self._choices = choices
        self._num_choices = num_choices
        self._include_usage = include_usage
        self._usages: dict[int, Usage] = {}
        self._used: dict[str, Any] = {}
        self._tokens: list[dict[str, Any]] = []

    def first(self) -> list[dict[str, Any]]:
        """The chunks that open a stream; the first one tells seed, mode and plan."""
        opening = [payload for choice in self._choices for payload in choice.opening()]
        chunks = [self._chunk([payload]) for payload in opening]
        chunks[0]["s2d"] = self._chosen()
        return chunks

    def take(self, index: int, event: Event) -> list[dict[str, Any]]:
        """An event of one choice; -> its chunks. After the last one they end the stream."""
        if isinstance(event, Delta):
            return self._add(index, event)
        return self._end(index, event) if isinstance(event, Finished) else []

    @property
    def is_complete(self) -> bool:
        """Whether all choices have ended."""
        return len(self._usages) == len(self._choices)

    def whole(self) -> dict[str, Any]:
        """The body of a reply that is not streamed: the same texts as all chunks joined."""
        usage = self._total()
        s2d = self._chosen() | totals_body(usage) | self._used
        if self._request.trace:
            s2d["tokens"] = self._tokens
        body = self._head | {
            "object": self._form.whole,
            "choices": [choice.whole() for choice in self._choices],
            "usage": usage_body(usage),
            "s2d": s2d,
        }
        return body | self._metrics(usage)

    def _add(self, index: int, event: Delta) -> list[dict[str, Any]]:
        chunks = [self._chunk([payload]) for payload in self._choices[index].add(event)]
        if self._request.trace and event.tokens:
            tokens = _tokens_body(event.tokens)
            self._tokens += tokens
            chunks[0]["s2d"] = {"tokens": tokens}
        return chunks

    def _end(self, index: int, event: Finished) -> list[dict[str, Any]]:
        self._usages[index] = event.usage
        if event.plan is not None and not self._used:
            self._used = {"plan": asdict(event.plan), "plan_reason": event.why}
        chunks = [self._chunk([payload]) for payload in self._choices[index].end(event)]
        if self.is_complete:
            usage = self._total()
            chunks[-1]["s2d"] = totals_body(usage) | self._used
            if self._include_usage:
                last = self._chunk([]) | {"usage": usage_body(usage)}
                chunks.append(last | self._metrics(usage))
        return chunks

    def _chosen(self) -> dict[str, Any]:
        """What was chosen for the request, by its client or for it, before it began."""
        return {
            "seed": self._request.sampling.seed,
            "mode": self._request.mode.value,
            "plan": asdict(self._request.plan),
        }

    def _total(self) -> Usage:
        return total([self._usages[index] for index in sorted(self._usages)], self._num_choices)

    def _metrics(self, usage: Usage) -> dict[str, Any]:
        if len(self._choices) > 1:
            return {}
        metrics = metrics_body(usage, self._request.plan.max_proposal)
        return {} if metrics is None else {"metrics": metrics}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = self._head | {"object": self._form.chunk, "choices": choices}
        return chunk | {"usage": None} if self._include_usage else chunk


def _tokens_body(tokens: Sequence[TokenTrace]) -> list[dict[str, Any]]:
    shown = ("token_id", "text", "drafted_by", "confidence", "rank", "round")
    return [{name: getattr(token, name) for name in shown} for token in tokens]
