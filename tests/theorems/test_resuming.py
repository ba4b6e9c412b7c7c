"""A text whose replica is lost goes on elsewhere as if nothing had happened.

The events before the cuts and those of the replicas that went on join to the events of the text
that was never cut: text, ids, log-probabilities, who drafted what, and the end with its counts.
Zero tolerance on tiny float32 models with packed layers.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from s2d_ray.config import TargetConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.assemble import Target, make_target
from s2d_ray.engine.messages import (
    OTHER_FINGERPRINT,
    ChatPrompt,
    Delta,
    Event,
    Finished,
    GenerateRequest,
    Mode,
    Refused,
    Resume,
    TokenPrompt,
)
from s2d_ray.models.kv_pool import BLOCK, RunAllocator
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.serve import engine_calls
from s2d_ray.serve.failover import Failover, ReplicaLost, unbroken
from tests.features import FEATURES
from tests.scripted import Forest, Oracle, Scripted, by_row
from tests.targets import Client, Job, make_engine, no_draft, write
from tests.tiny import (
    ALPHABET,
    EOS,
    SPECIALS,
    VOCAB_SIZE,
    tiny_checkpoint,
    tiny_decoder,
    tiny_text,
)

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this host's linear layers keep no bits"
)

MAX_TOKENS = 40
CACHE_TOKENS = 128 * BLOCK
NUM_PROMPT = BLOCK + 1
"""Tokens of the shortest prompt: a block that others copy."""
SHAPES = ("nothing", "chains", "trees")


def token(word: str) -> int:
    return len(SPECIALS) + ALPHABET.index(word)


HALVES = {token("Ã"): 6.0, token("¼"): 6.0, token("a"): 4.0, token("b"): 4.0}
"""Makes texts of halves of "ü" and beginnings of stop strings."""

CASES: dict[str, dict[str, Any]] = {
    **FEATURES,
    "halves": {"logit_bias": tuple(HALVES.items())},
    "halves held for stops": {
        "logit_bias": tuple(HALVES.items()),
        "stop": ("üabb", "abüa", "bbbb"),
        "min_tokens": 4,
    },
}


@dataclass(frozen=True)
class Asked(Job):
    """A job that a router sends, perhaps for the second time."""

    shows_tokens: bool = True
    resume: Resume | None = None

    def request(self) -> GenerateRequest:
        return replace(super().request(), trace=self.shows_tokens, resume=self.resume)


@cache
def model() -> RaggedModel:
    decoder = tiny_decoder("llama", torch.float32, layers=2, seed=8, linear="packed")
    return RaggedModel(decoder, CACHE_TOKENS)


def jobs_of(shape: str, *, shows_tokens: bool) -> list[Asked]:
    """Every case, greedy and, once others have read its prompt, drawn."""
    mode = Mode.OFF if shape == "nothing" else Mode.FORCE
    return [
        Asked(
            f"{case} {temperature}",
            tuple(2 + (17 * i + 5 * j) % 90 for j in range(NUM_PROMPT + i % 5)),
            SamplingParams(100 + i, temperature, **{"max_tokens": MAX_TOKENS, **fields}),
            Plan((), 0.0, 4, tree_width=3),
            mode,
            shows_tokens=shows_tokens,
        )
        for temperature in (0.0, 0.9)
        for i, (case, fields) in enumerate(CASES.items())
    ]


def run(
    jobs: Sequence[Asked], shape: str, texts: dict[str, list[int]], **limits: Any
) -> tuple[list[Client], Counter[str]]:
    """Write `jobs` on a replica of its own. -> their clients, and what it counted."""
    script = {"nothing": None, "chains": Oracle, "trees": Forest}[shape]
    known = {job.name: texts[job.name.partition("~")[0]] for job in jobs} if script else {}
    proposer = script and Scripted(by_row(script(known, VOCAB_SIZE, 0.2, seed=4)))
    allocator = RunAllocator(CACHE_TOKENS)  # its own: earlier replicas keep what they lend
    engine = make_engine(model(), tiny_text(), eos=frozenset({EOS}), allocator=allocator, **limits)
    return write(model(), engine, jobs, proposer), engine.counters


@cache
def known_texts() -> dict[str, list[int]]:
    """Prompt, output and something behind it of every job, for the oracles."""
    jobs = jobs_of("nothing", shows_tokens=True)
    clients, _ = run(jobs, "nothing", {})
    return {
        job.name: [*job.prompt_ids, *client.ids, *[11, 12, 13] * 20]
        for job, client in zip(jobs, clients, strict=True)
    }


def sent_again(job: Asked, failover: Failover) -> Asked:
    """What a router sends to the next replica."""
    request = failover.again()
    assert isinstance(request.prompt, TokenPrompt)
    assert request.prompt.ids == job.prompt_ids
    return replace(job, name=request.request_id, resume=request.resume)


def without_cost(events: Sequence[Event]) -> list[object]:
    """All that a user can see of a text but how much was guessed and copied."""
    seen: list[object] = []
    for event in events:
        if isinstance(event, Delta):
            seen += [(t.token_id, t.text, t.logprob, t.alternatives, t.ends) for t in event.tokens]
        if isinstance(event, Finished):
            seen += [event.reason, event.usage.prompt_tokens, event.usage.completion_tokens]
    text = "".join(event.text for event in events if isinstance(event, Delta))
    return [text, *seen]


def check_counts(events: Sequence[Event], *, shows_tokens: bool) -> None:
    """The counts are of the whole text, over all replicas."""
    last = events[-1]
    assert isinstance(last, Finished)
    usage = last.usage
    assert sum(count.rounds for count in usage.rounds_by_length) == usage.rounds
    assert sum(c.accepted * c.rounds for c in usage.rounds_by_length) == usage.accepted_tokens
    tokens = [token for event in events if isinstance(event, Delta) for token in event.tokens]
    if shows_tokens:
        assert sum(token.drafted_by is not None for token in tokens) == usage.accepted_tokens
        rounds = [token.round for token in tokens]
        assert sorted(set(rounds)) == list(range(usage.rounds + 1))
        assert rounds == sorted(rounds)


@pytest.mark.parametrize("shows_tokens", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_text_that_was_cut_twice_is_the_text_that_was_never_cut(
    shape: str, shows_tokens: bool
) -> None:
    """Cuts are random, from before the first event to behind the last delta.

    The second and third replica copy from other texts what the first one computed.
    """
    rng = random.Random(5)
    jobs = jobs_of(shape, shows_tokens=shows_tokens)
    clients, _ = run(jobs, shape, known_texts())
    whole = [client.events for client in clients]
    failovers = [Failover(job.request()) for job in jobs]
    told: list[list[Event]] = [[] for _ in jobs]
    asked, num_copied, resumed = jobs, 0, []
    for replica in range(3):
        limits = {"prefix_cache": replica > 0, "prefill_chunk": 16 if replica > 0 else 256}
        clients, counters = run(asked, shape, known_texts(), **limits)
        num_copied += counters["prefix_tokens"]
        for failover, client, events in zip(failovers, clients, told, strict=True):
            end = len(client.events) if replica == 2 else rng.randrange(len(client.events))
            heard = [failover.take(event) for event in client.events[:end]]
            events += [event for event in heard if event is not None]
        if replica < 2:
            asked = [sent_again(*pair) for pair in zip(jobs, failovers, strict=True)]
            resumed.append([job.resume is not None for job in asked])
    for job, ours, theirs, begun in zip(jobs, told, whole, resumed[0], strict=True):
        assert without_cost(ours) == without_cost(theirs), job.name
        check_counts(ours, shows_tokens=shows_tokens)
        if begun and shape == "nothing":  # else the first forward on a new replica has no guesses
            assert ours == theirs, job.name
    assert 0 < sum(resumed[0]) < sum(resumed[1])
    assert num_copied > 0


class Replicas:
    """Targets of this process, one for each attempt; the first one is lost behind some deltas."""

    def __init__(self, targets: Sequence[Target], num_deltas: int) -> None:
        self._targets = targets
        self._num_deltas = num_deltas
        self.refusals: list[Refused] = []
        self.num_attempts = 0

    async def attempt(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        number, self.num_attempts = self.num_attempts, self.num_attempts + 1
        num_told = 0
        async with aclosing(engine_calls.generate(self._targets[number], request)) as events:
            async for event in events:
                if number == 0 and num_told == self._num_deltas:
                    raise ReplicaLost("killed")
                num_told += isinstance(event, Delta)
                if isinstance(event, Refused):
                    self.refusals.append(event)
                yield event


def test_a_replica_of_another_fingerprint_never_goes_on_with_a_text(tmp_path: Path) -> None:
    """It refuses by a code of its own, and the next one of the same fingerprint goes on."""
    folders = [tiny_checkpoint(tmp_path / str(seed), layers=1, seed=seed) for seed in range(2)]
    settings = [(folders[0], "float32"), (folders[0], "int8"), (folders[1], "float32")]
    targets = [
        make_target(
            TargetConfig.model_validate(
                {
                    "model": str(folder),
                    "precision": precision,
                    "device": "cpu",
                    "num_threads": 1,
                    "kv_cache_mib": 8,
                    "max_context": 256,
                }
            ),
            folder,
            no_draft(),
            replica=precision,
        )
        for folder, precision in settings
    ]
    request = GenerateRequest(
        "text",
        ChatPrompt(({"role": "user", "content": "go on"},)),
        SamplingParams(3, 0.8, max_tokens=12, logit_bias=((EOS, -100.0),)),
        Plan(),
        Mode.OFF,
        trace=True,
    )

    async def told(replicas: Replicas) -> list[Event]:
        return [event async for event in unbroken(request, replicas.attempt, lambda: None)]

    for target in targets:
        target.loop.start()
    try:
        whole = asyncio.run(told(Replicas(targets[:1], 99)))
        replicas = Replicas([*targets, targets[0]], 5)
        assert asyncio.run(told(replicas)) == whole
    finally:
        for target in targets:
            target.stop()
    assert [refusal.code for refusal in replicas.refusals] == [OTHER_FINGERPRINT] * 2
    assert targets[1].batch.counters["resumed"] == targets[2].batch.counters["resumed"] == 0
    assert targets[0].batch.counters["resumed"] == 1
