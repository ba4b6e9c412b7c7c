"""A pool so tight that texts are preempted, moved and evicted changes nothing of what they say.

Zero tolerance on tiny float32 models with packed layers: ids, text, log-probabilities, and the
logits behind every prefix are those of a pool where every text has its whole run from the start.
In the tight pool runs begin without room to spare, so that short texts grow too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine import schedule
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.messages import Delta, Event, Finished, Mode
from s2d_ray.models.kv_pool import BLOCK
from s2d_ray.models.ragged import RaggedModel
from tests.features import FEATURES
from tests.scripted import Forest, Oracle, Scripted, by_row, engine_script
from tests.targets import Client, Job, Recording, make_engine, write
from tests.tiny import EOS, VOCAB_SIZE, tiny_decoder, tiny_draft_network, tiny_text

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this host's linear layers keep no bits"
)

TIGHT = 5 * BLOCK
LENGTHS = (62, 60, 63, 59, 61, 126)
"""Of prompts: a few tokens short of another block."""

SHAPES = ("nothing", "chains", "trees")


@cache
def decoder() -> Any:
    return tiny_decoder("llama", torch.float32, layers=2, seed=8, linear="packed")


@dataclass
class Written:
    """Texts of one engine, and what it counted."""

    clients: list[Client]
    recording: Recording
    counters: Counter[str]


def run(
    num_tokens: int,
    jobs: Sequence[Job],
    proposer: Scripted | None = None,
    *,
    ahead: int = 0,
    **limits: Any,
) -> Written:
    """Write all of `jobs` with a pool of so many tokens; in the end no block is missing."""
    recording = Recording(RaggedModel(decoder(), num_tokens))
    engine = make_engine(recording, tiny_text(), eos=frozenset({EOS}), **limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "AHEAD", ahead)
        clients = write(recording, engine, jobs, proposer)
    allocator = recording.pool.allocator
    assert allocator.num_free_blocks + engine.num_held_blocks == allocator.num_blocks
    return Written(clients, recording, engine.counters)


def run_roomy(jobs: Sequence[Job]) -> Written:
    """The same jobs, plainly, with nothing that a tight pool does."""
    roomy = run(64 * BLOCK, silent(jobs), ahead=512)
    for name in ("preemptions", "relocations", "recomputed_tokens", "prefix_evictions"):
        assert roomy.counters[name] == 0
    return roomy


def jobs_with(lengths: Sequence[int] = LENGTHS, **fields: Any) -> list[Job]:
    return [
        Job(
            f"job-{i}",
            tuple(2 + (17 * i + 5 * j) % 90 for j in range(length)),
            SamplingParams(100 + i, 0.9, **{"max_tokens": 60, **fields}),
            Plan((), 0.0, 6, tree_width=3),
        )
        for i, length in enumerate(lengths)
    ]


def silent(jobs: Sequence[Job]) -> list[Job]:
    return [replace(job, mode=Mode.OFF) for job in jobs]


def proposer_of(shape: str, jobs: Sequence[Job], clients: Sequence[Client]) -> Scripted | None:
    """Proposals that are right most of the time, so that much is accepted."""
    if shape == "nothing":
        return None
    texts = {
        job.name: [*job.prompt_ids, *client.ids, *[11, 12, 13] * 20]
        for job, client in zip(jobs, clients, strict=True)
    }
    script = Oracle if shape == "chains" else Forest
    return Scripted(by_row(script(texts, VOCAB_SIZE, 0.2, seed=4)))


def assert_same(tight: Written, roomy: Written) -> None:
    """Everything a user can see, and every logit of the roomy run, bit for bit."""
    for ours, theirs in zip(tight.clients, roomy.clients, strict=True):
        assert ours.outcome == theirs.outcome
        assert [(t.logprob, t.alternatives) for t in ours.traces] == [
            (t.logprob, t.alternatives) for t in theirs.traces
        ]
        usage = ours.usage
        assert usage.prompt_tokens == theirs.usage.prompt_tokens
        assert usage.completion_tokens == theirs.usage.completion_tokens
        assert usage.accepted_tokens == sum(t.drafted_by is not None for t in ours.traces)
        assert usage.accepted_tokens <= usage.drafted_tokens
        assert sum(count.rounds for count in usage.rounds_by_length) == usage.rounds
    assert roomy.recording.logits.keys() <= tight.recording.logits.keys()
    for prefix, logits in roomy.recording.logits.items():
        assert torch.equal(tight.recording.logits[prefix], logits)


def events_of(client: Client, *, cached: bool) -> list[Event]:
    """All events; without the tokens that were copied, unless these must be equal too."""
    return [event if cached else uncached(event) for event in client.events]


def uncached(event: Event) -> Event:
    if isinstance(event, Finished):
        return replace(event, usage=replace(event.usage, cached_tokens=0))
    if isinstance(event, Delta):
        return replace(event, cached_tokens=0)
    return event


@pytest.mark.parametrize("feature", FEATURES)
def test_no_feature_is_changed_by_a_tight_pool(feature: str) -> None:
    """Penalties, grammars, stop strings and the rest go on behind a preemption as if none was."""
    jobs = jobs_with(**FEATURES[feature])
    roomy = run_roomy(jobs)
    counts: Counter[str] = Counter()
    for shape in SHAPES:
        proposer = proposer_of(shape, jobs, roomy.clients)
        tight = run(TIGHT, jobs if proposer else silent(jobs), proposer, prefill_chunk=48)
        assert_same(tight, roomy)
        counts += tight.counters
    for name in ("preemptions", "recomputed_tokens", "accepted_tokens"):
        assert counts[name] > 0, name


@pytest.mark.parametrize("prefix_cache", [False, True])
@pytest.mark.parametrize("prefill_chunk", [16, 256])
@pytest.mark.parametrize("shape", SHAPES)
def test_preempted_moved_and_evicted_texts_are_those_of_a_roomy_pool(
    shape: str, prefill_chunk: int, prefix_cache: bool
) -> None:
    """Texts of several blocks, some of whose prompts begin alike."""
    jobs = jobs_with((62, 60, 126, 63, 100, 61, 130, 20), max_tokens=150, ignore_eos=True)
    shared = tuple(range(2, 70))
    jobs[4:] = [replace(job, prompt_ids=(*shared, *job.prompt_ids[:40])) for job in jobs[4:]]
    jobs[6:] = [replace(job, sampling=replace(job.sampling, logprobs=2)) for job in jobs[6:]]
    roomy = run_roomy(jobs)
    proposer = proposer_of(shape, jobs, roomy.clients)
    limits = {"prefill_chunk": prefill_chunk, "prefix_cache": prefix_cache}
    tight = run(9 * BLOCK, jobs if proposer else silent(jobs), proposer, **limits)
    assert_same(tight, roomy)
    for name in ("preemptions", "relocations", "recomputed_tokens"):
        assert tight.counters[name] > 0, name
    assert (tight.counters["prefix_evictions"] > 0) == prefix_cache
    if proposer is None:  # then the rounds are the same too, and so is each single event
        for ours, theirs in zip(tight.clients, roomy.clients, strict=True):
            assert events_of(ours, cached=not prefix_cache) == events_of(
                theirs, cached=not prefix_cache
            )


def test_a_draft_that_keeps_the_sessions_of_preempted_texts_changes_nothing() -> None:
    """A real draft of the same family: rows leave its calls for a while and come back."""
    jobs = jobs_with(max_tokens=80, ignore_eos=True)
    roomy = run_roomy(jobs)
    small = tiny_decoder("llama", torch.float32, layers=2, seed=8)
    draft = DraftEngine(tiny_draft_network(small, (1, 2), cache_tokens=2_048), {EOS})
    tight = run(TIGHT, jobs, Scripted(engine_script(draft)))
    assert_same(tight, roomy)
    assert tight.counters["preemptions"] > 0
    assert tight.counters["accepted_tokens"] > 0
    assert draft.counters["opened_sessions"] == len(jobs)
