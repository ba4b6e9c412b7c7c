"""A target engine and its loop around any model, driven to the end of given requests."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Mode,
    Refused,
    Started,
    TokenPrompt,
    TokenTrace,
    Usage,
)
from s2d_ray.engine.protocol import Proposer
from s2d_ray.engine.steering import Steering
from s2d_ray.engine.target_batch import Limits, TargetBatch
from s2d_ray.engine.target_loop import TargetLoop
from s2d_ray.models.attention import Segment
from s2d_ray.models.grammar import Vocabulary
from s2d_ray.models.kv_pool import Copy, RunAllocator
from s2d_ray.models.text import TextStream
from tests.scripted import Scripted
from tests.tiny import tiny_vocabulary

PATIENCE_S = 120.0
"""Longest wait for a text; only a hang reaches it."""


@dataclass(frozen=True)
class Job:
    """A prompt and how to continue it. `name` is the request id."""

    name: str
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    plan: Plan = Plan()
    mode: Mode = Mode.FORCE
    task: str = ""

    def request(self) -> GenerateRequest:
        prompt = TokenPrompt(self.prompt_ids)
        return GenerateRequest(
            self.name, prompt, self.sampling, self.plan, self.mode, trace=True, task=self.task
        )


@dataclass
class Client:
    """Collects the events of one request."""

    events: list[Event] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    started: threading.Event = field(default_factory=threading.Event)
    written: threading.Event = field(default_factory=threading.Event)

    def publish(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Started):
            self.started.set()
        if isinstance(event, Delta):
            self.written.set()
        if isinstance(event, Finished | Refused):
            self.ended.set()

    @property
    def last(self) -> Event:
        return self.events[-1]

    @property
    def usage(self) -> Usage:
        assert isinstance(self.last, Finished), self.last
        return self.last.usage

    @property
    def reason(self) -> FinishReason:
        assert isinstance(self.last, Finished), self.last
        return self.last.reason

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def traces(self) -> list[TokenTrace]:
        deltas = [event for event in self.events if isinstance(event, Delta)]
        return list(itertools.chain.from_iterable(delta.tokens for delta in deltas))

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(trace.token_id for trace in self.traces)

    @property
    def outcome(self) -> tuple[tuple[int, ...], str, FinishReason]:
        """All that a user can see of the text."""
        return self.ids, self.text, self.reason


def parents_of(segment: Segment) -> Sequence[int]:
    """For every row but the first, the row it stands behind."""
    return segment.parents or range(segment.num_rows - 1)


class Recording:
    """A model that also keeps the logits behind every prefix it is asked to score."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._held: dict[int, list[int]] = {}
        self.logits: dict[tuple[int, ...], Tensor] = {}
        self.pool = model.pool
        self.vocab_size: int = model.vocab_size

    def copy(self, copies: Sequence[Copy]) -> None:
        for copy in copies:
            self._held[copy.target] = self._held[copy.source][: copy.num_tokens]
        self._model.copy(copies)

    def forward(
        self, token_ids: Sequence[int], segments: Sequence[Segment], wanted_rows: Sequence[int]
    ) -> Tensor:
        prefixes: list[tuple[int, ...]] = []
        row = 0
        for segment in segments:
            held = self._held.setdefault(segment.run.start, [])
            del held[segment.first_position :]
            own = token_ids[row : row + segment.num_rows]
            first = len(prefixes)
            for parent, token_id in zip((None, *parents_of(segment)), own, strict=True):
                before = tuple(held) if parent is None else prefixes[first + parent]
                prefixes.append((*before, token_id))
            held += [own[node] for node in segment.paths()[-1]]
            row += segment.num_rows
        logits: Tensor = self._model.forward(token_ids, segments, wanted_rows)
        for wanted, scores in zip(wanted_rows, logits, strict=True):
            self.logits[prefixes[wanted]] = scores
        return logits


def make_engine(
    model: Any,
    text: Any,
    *,
    eos: frozenset[int],
    allocator: RunAllocator | None = None,
    max_context: int = 512,
    default_max_tokens: int = 64,
    max_batch: int = 8,
    max_waiting: int = 64,
    prefill_chunk: int = 256,
    replica: str = "replica",
    prefix_cache: bool = False,
    fingerprint: str = "",
) -> TargetBatch:
    """A target engine over a model's pool. `text` has `tokenizer` and `token_bytes`."""
    limits = Limits(
        max_context,
        default_max_tokens,
        max_batch,
        max_waiting,
        prefill_chunk,
        model.vocab_size,
        prefix_cache,
    )
    pool = allocator or model.pool.allocator
    return TargetBatch(
        limits,
        pool,
        eos,
        lambda params: TextStream(text, params.stop, params.min_tokens),
        replica,
        fingerprint,
    )


def no_draft() -> Scripted:
    """A proposer that is never there."""
    proposer = Scripted(lambda call: None)
    proposer.is_available = False
    return proposer


def send(
    loop: TargetLoop, jobs: Sequence[Job], vocabulary: Vocabulary | None = None
) -> list[Client]:
    """Queue `jobs` in order. -> their clients. vocabulary: of the target, if it is not tiny."""
    clients = [Client() for _ in jobs]
    for job, client in zip(jobs, clients, strict=True):
        wanted = job.sampling.format
        grammar = wanted and (vocabulary or tiny_vocabulary()).start(wanted)
        loop.submit(job.request(), list(job.prompt_ids), client.publish, grammar)
    return clients


def wait_for(clients: Sequence[Client]) -> None:
    """Wait until all have ended."""
    for client in clients:
        assert client.ended.wait(PATIENCE_S), "a text never ended"


def write(
    model: Any,
    engine: TargetBatch,
    jobs: Sequence[Job],
    proposer: Proposer | None = None,
    steering: Steering | None = None,
) -> list[Client]:
    """Serve `jobs` together, all queued before the first round. -> their clients, all ended.

    One thread: the models are tiny, and waking a second takes longer than their products.
    """
    loop = TargetLoop(engine, model, proposer or no_draft(), num_threads=1, steering=steering)
    clients = send(loop, jobs)
    loop.start()
    try:
        wait_for(clients)
    finally:
        loop.stop()
    return clients


def total(clients: Sequence[Client]) -> Counter[str]:
    """Sums over the usages of finished clients."""
    counts: Counter[str] = Counter()
    for client in clients:
        counts["completion"] += client.usage.completion_tokens
        counts["drafted"] += client.usage.drafted_tokens
        counts["accepted"] += client.usage.accepted_tokens
        counts["rounds"] += client.usage.rounds
    return counts
