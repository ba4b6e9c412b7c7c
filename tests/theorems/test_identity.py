"""Same seed, same ids: speculation never changes a text, whatever the draft does (tiny models).

The models are random float64 decoders. Ids must be equal and logits equal within 1e-9; on float32
weights with a bitwise seam see test_identity_real.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import JsonFormat, SamplingParams
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.messages import FinishReason, Mode
from s2d_ray.models.kv_pool import BLOCK, RunAllocator
from s2d_ray.models.ragged import RaggedModel
from tests.scripted import Forest, Oracle, Scripted, adversaries, by_row, chaos, engine_script
from tests.targets import Client, Job, Recording, make_engine, total, write
from tests.tiny import EOS, VOCAB_SIZE, tiny_decoder, tiny_draft_network, tiny_text

ENDS = frozenset({EOS})
FAMILIES = ("llama", "qwen2")
TEXT = tiny_text()
EXITS = (1, 2, 3)


class World:
    """One family's tiny target and drafts, made once."""

    def __init__(self, family: str) -> None:
        self.decoder = tiny_decoder(family, torch.float64, layers=3, seed=5)
        self.model = RaggedModel(self.decoder, cache_tokens=4_096)
        half = tuple(range(0, VOCAB_SIZE, 2))
        self.networks = {
            "whole vocabulary": tiny_draft_network(self.decoder, EXITS, cache_tokens=2_048),
            "trimmed": tiny_draft_network(self.decoder, EXITS, half, cache_tokens=2_048),
            "one exit": tiny_draft_network(self.decoder, (2,), cache_tokens=2_048),
            "small cache": tiny_draft_network(self.decoder, EXITS, cache_tokens=128),
        }

    def write(
        self, jobs: Sequence[Job], proposer: Scripted | None = None, **limits: int
    ) -> tuple[list[Client], Recording, Counter[str]]:
        recording = Recording(self.model)
        engine = make_engine(recording, TEXT, eos=ENDS, **limits)
        clients = write(recording, engine, jobs, proposer)
        allocator = self.model.pool.allocator
        assert allocator.num_free_blocks == allocator.num_blocks, "blocks were lost"
        return clients, recording, engine.counters

    @contextmanager
    def draft(self, network: str) -> Iterator[tuple[Scripted, DraftEngine]]:
        """A draft engine without thread behind a proposer; its cache is given back."""
        engine = DraftEngine(self.networks[network], ENDS, prefill_chunk=16, max_debt=24)
        yield Scripted(engine_script(engine)), engine
        engine.expire(now_s=1e9)
        pool = self.networks[network].pool
        num_free = pool.allocator.num_free_blocks + engine.num_held_blocks
        assert num_free == pool.allocator.num_blocks, "the draft lost blocks"
        pool.allocator = RunAllocator(pool.allocator.num_blocks * BLOCK)


@pytest.fixture(scope="module", params=FAMILIES)
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def plain(jobs: Sequence[Job]) -> list[Job]:
    return [replace(job, mode=Mode.OFF) for job in jobs]


def assert_same(spoken: Sequence[Client], silent: Sequence[Client]) -> None:
    for ours, reference in zip(spoken, silent, strict=True):
        assert ours.outcome == reference.outcome
        assert ours.usage.completion_tokens == len(ours.ids) == reference.usage.completion_tokens
        assert ours.usage.accepted_tokens == sum(t.drafted_by is not None for t in ours.traces)
        assert ours.usage.accepted_tokens <= ours.usage.drafted_tokens
        assert [t.logprob and t.logprob.token_id for t in ours.traces] == [
            t.logprob and t.logprob.token_id for t in reference.traces
        ]
        for mine, theirs in zip(ours.traces, reference.traces, strict=True):
            if mine.logprob is not None and theirs.logprob is not None:
                assert mine.logprob.logprob == pytest.approx(theirs.logprob.logprob, abs=1e-9)
        assert sum(count.rounds for count in ours.usage.rounds_by_length) == ours.usage.rounds


def assert_same_logits(spoken: Recording, silent: Recording) -> None:
    assert silent.logits.keys() <= spoken.logits.keys()
    for prefix, logits in silent.logits.items():
        torch.testing.assert_close(spoken.logits[prefix], logits, rtol=0, atol=1e-9)


def prompts(count: int, length: int = 9) -> list[tuple[int, ...]]:
    return [
        tuple(2 + (13 * i + 7 * j) % (VOCAB_SIZE - 2) for j in range(length + i))
        for i in range(count)
    ]


def with_format(sampling: SamplingParams) -> st.SearchStrategy[SamplingParams]:
    """Some samplings with a grammar, whose texts need room and end by themselves."""
    return formats.map(
        lambda wanted: (
            sampling
            if wanted is None
            else replace(sampling, format=wanted, max_tokens=40, ignore_eos=False, stop=())
        )
    )


thresholds = st.lists(st.floats(0, 1), max_size=3).map(tuple)
plans = st.builds(
    Plan,
    thresholds,
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    st.integers(0, 9),
    st.sampled_from([1, 1, 2, 4]),
    st.sampled_from([1, 2, 32]),
    st.sampled_from([0, 1, 3]),
)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 9},
            "b": {"type": "array", "items": {"enum": ["x", "yy", 3]}, "maxItems": 3},
            "c": {"type": "integer", "minimum": 10, "maximum": 500},
        },
        "required": ["b", "c"],
        "additionalProperties": False,
    }
)
formats = st.sampled_from([None, None, None, JsonFormat(), JsonFormat(SCHEMA)])
samplings = st.builds(
    SamplingParams,
    seed=st.integers(0, 2**53 - 1),
    temperature=st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.6]),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 0.0]),
    top_k=st.sampled_from([0, 1, 5, 50]),
    max_tokens=st.sampled_from([1, 2, 3, 7, 20]),
    stop=st.lists(st.sampled_from(["a", "xy", "ü", " ", "Q1", "e"]), max_size=2).map(tuple),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.9]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7, -2.0]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.4]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.2]),
    logit_bias=st.sampled_from([(), (), ((EOS, 3.0), (9, -100.0)), ((12, 5.0),)]),
    min_tokens=st.sampled_from([0, 0, 4]),
    stop_token_ids=st.sampled_from([(), (), (15, 40)]),
    ignore_eos=st.booleans(),
    logprobs=st.sampled_from([None, 0, 3]),
).flatmap(with_format)
jobs_strategy = st.lists(
    st.tuples(
        st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=70),
        samplings,
        plans,
        st.sampled_from([Mode.FORCE, Mode.FORCE, Mode.AUTO, Mode.OFF]),
    ),
    min_size=1,
    max_size=5,
).map(
    lambda items: [Job(f"job-{i}", tuple(ids), s, p, m) for i, (ids, s, p, m) in enumerate(items)]
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    jobs=jobs_strategy,
    network=st.sampled_from(["whole vocabulary", "trimmed", "one exit", "small cache"]),
    prefill_chunk=st.sampled_from([1, 5, 64, 256]),
    max_batch=st.sampled_from([1, 2, 8]),
    max_context=st.sampled_from([75, 512]),
)
def test_the_text_depends_on_neither_plan_nor_draft_nor_batch_nor_chunks(
    world: World,
    jobs: list[Job],
    network: str,
    prefill_chunk: int,
    max_batch: int,
    max_context: int,
) -> None:
    if any(job.sampling.format for job in jobs):
        max_context = 512  # a text that must be closed is refused where there is no room for it
    limits = {"prefill_chunk": prefill_chunk, "max_batch": max_batch, "max_context": max_context}
    with world.draft(network) as (proposer, _):
        spoken, recorded, _ = world.write(jobs, proposer, **limits)
    for job, client in zip(jobs, spoken, strict=True):
        alone, reference, _ = world.write(plain([job]), max_context=max_context)
        assert_same([client], alone)
        assert_same_logits(recorded, reference)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_a_draft_that_ends_in_the_whole_model_is_always_right_and_changes_nothing(
    world: World, temperature: float
) -> None:
    jobs = [
        Job(
            f"job-{i}", ids, SamplingParams(i, temperature, max_tokens=24), Plan((1.0, 1.0), 0.0, i)
        )
        for i, ids in enumerate(prompts(8), start=1)
    ]
    with world.draft("whole vocabulary") as (proposer, draft):
        spoken, _, counters = world.write(jobs, proposer)
        assert draft.counters["drafted_by_3"] > 100
    assert_same(spoken, world.write(plain(jobs))[0])
    assert total(spoken)["accepted"] == total(spoken)["drafted"] > 100
    assert counters["forwards"] < total(spoken)["completion"] / 6


@pytest.mark.parametrize("error_rate", [0.0, 0.2, 0.5, 1.0])
def test_an_oracle_with_errors_changes_nothing(world: World, error_rate: float) -> None:
    accepted: Counter[int] = Counter()
    for seed, temperature in enumerate((0.0, 0.8)):
        jobs = oracle_jobs(temperature, seed)
        silent, reference, _ = world.write(plain(jobs))
        oracle = Oracle(texts_of(jobs, silent), VOCAB_SIZE, error_rate, seed)
        spoken, recorded, counters = world.write(jobs, Scripted(by_row(oracle)))
        assert_same(spoken, silent)
        assert_same_logits(recorded, reference)
        accepted += Counter({n: counters[f"accepted_{n}"] for n in range(9)})
    if error_rate == 0.0:
        assert total(spoken)["accepted"] == total(spoken)["drafted"] > 0
    elif error_rate == 1.0:
        assert set(+accepted) == {0}
    else:
        longest = 8 if error_rate < 0.5 else 4
        assert set(+accepted) >= set(range(longest + 1)), "each accepted length must occur"


def oracle_jobs(temperature: float, seed: int = 0, max_tokens: int = 40) -> list[Job]:
    samplings = [
        SamplingParams(100 * seed + i, temperature, max_tokens=max_tokens) for i in range(8)
    ]
    return [
        Job(f"job-{i}", ids, sampling, Plan((), 0.0, 8))
        for i, (ids, sampling) in enumerate(zip(prompts(8), samplings, strict=True))
    ]


def texts_of(jobs: Sequence[Job], clients: Sequence[Client]) -> dict[str, list[int]]:
    """Prompt and completion, the completion carried on with some token behind its end."""
    return {
        job.name: [*job.prompt_ids, *client.ids, *[11, 12, 13] * 200]
        for job, client in zip(jobs, clients, strict=True)
    }


@pytest.mark.parametrize("error_rate", [0.0, 0.3])
def test_right_branches_of_wrong_trees_are_accepted_and_change_nothing(
    world: World, error_rate: float
) -> None:
    """Bushy trees whose right branch is seldom the spine; long runs off it are accepted."""
    for seed, temperature in enumerate((0.0, 0.8)):
        jobs = oracle_jobs(temperature, seed)
        silent, reference, _ = world.write(plain(jobs))
        forest = Forest(texts_of(jobs, silent), VOCAB_SIZE, error_rate, seed)
        spoken, recorded, counters = world.write(jobs, Scripted(by_row(forest)))
        assert_same(spoken, silent)
        assert_same_logits(recorded, reference)
        assert counters["tree_proposals"] == counters["proposals"] > 0
        assert total(spoken)["accepted"] > total(spoken)["completion"] / 2
        if error_rate == 0.0:
            assert counters["accepted_8"] > 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_wider_tree_is_accepted_more_often_and_changes_nothing(
    world: World, temperature: float
) -> None:
    """The draft's second and third guesses are accepted where its first is wrong."""
    jobs = [
        replace(job, plan=Plan((), 0.0, 6, tree_width=width))
        for width in (1, 3)
        for job in oracle_jobs(temperature)
    ]
    chains, trees = jobs[:8], jobs[8:]
    silent = world.write(plain(chains))[0]
    accepted = []
    for each in (chains, trees):
        with world.draft("whole vocabulary") as (proposer, _):
            spoken, _, counters = world.write(each, proposer)
        assert_same(spoken, silent)
        accepted.append(total(spoken)["accepted"])
        ranks = {trace.rank for client in spoken for trace in client.traces} - {None}
    assert accepted[1] > accepted[0]
    assert ranks >= {0, 1, 2}


@pytest.mark.parametrize("has_draft", [False, True])
def test_tier_0_guesses_from_the_text_itself_and_changes_nothing(
    world: World, has_draft: bool
) -> None:
    """Greedy tiny models repeat themselves, so much of tier 0 is right; it needs no draft."""
    jobs = [
        replace(job, mode=Mode.AUTO, plan=Plan((), 0.0, 6, min_match=2))
        for job in oracle_jobs(0.0, max_tokens=80)
    ]
    silent, reference, _ = world.write(plain(jobs))
    with world.draft("trimmed") as (proposer, _):
        spoken, recorded, counters = world.write(jobs, proposer if has_draft else None)
    assert_same(spoken, silent)
    assert_same_logits(recorded, reference)
    by_tier_0 = [t for client in spoken for t in client.traces if t.drafted_by == 0]
    assert len(by_tier_0) == counters["tier0_accepted"] > 50
    assert all(0 < (trace.confidence or 0) < 1 for trace in by_tier_0)
    if has_draft:
        asked = sum(len(call.rows) for call in proposer.calls)
        assert 0 < asked < total(spoken)["rounds"], "each round of a row has one tier"
    else:
        assert total(spoken)["accepted"] == counters["tier0_accepted"]


def test_a_forced_request_never_uses_tier_0(world: World) -> None:
    jobs = [replace(job, plan=Plan((), 0.0, 6, min_match=1)) for job in oracle_jobs(0.0)]
    with world.draft("trimmed") as (proposer, _):
        _, _, counters = world.write(jobs, proposer)
    assert counters["tier0_proposals"] == 0
    assert counters["proposals"] > 0


def test_a_text_that_begins_like_another_is_the_same_with_what_that_one_computed(
    world: World,
) -> None:
    """Chats that go on, prompts that share a beginning, some of them at the same time."""
    start = prompts(1, length=150)[0]
    waves = [
        [start],
        [(*start, *more) for more in prompts(4, length=20)],
        [(*start[:100], *more) for more in prompts(4, length=20)],
        [start, start],
    ]
    jobs = [
        [
            Job(f"job-{number}-{i}", ids, SamplingParams(i, 0.8, max_tokens=12), Plan((), 0.0, 4))
            for i, ids in enumerate(wave)
        ]
        for number, wave in enumerate(waves)
    ]
    plainly = [world.write(plain(wave)) for wave in jobs]
    recording = Recording(world.model)
    engine = make_engine(recording, TEXT, eos=ENDS, prefix_cache=True)
    cached = []
    for wave, (silent, reference, _) in zip(jobs, plainly, strict=True):
        with world.draft("trimmed") as (proposer, _):
            spoken = write(recording, engine, wave, proposer)
        assert_same(spoken, silent)
        assert_same_logits(recording, reference)
        cached.append(sum(client.usage.cached_tokens for client in spoken))
    assert cached == [0, 4 * 128, 4 * 64, 2 * 128]
    allocator = world.model.pool.allocator
    assert allocator.num_free_blocks + engine.num_held_blocks == allocator.num_blocks
    world.model.pool.allocator = RunAllocator(allocator.num_blocks * BLOCK)


ADVERSARIES = sorted(adversaries(Oracle({}, VOCAB_SIZE), VOCAB_SIZE, EOS))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_no_adversary_changes_a_text(world: World, name: str) -> None:
    jobs = oracle_jobs(0.8, max_tokens=20)[:4]
    silent, reference, _ = world.write(plain(jobs))
    oracle = Oracle(texts_of(jobs, silent), VOCAB_SIZE)
    proposer = Scripted(adversaries(oracle, VOCAB_SIZE, EOS)[name])
    spoken, recorded, _ = world.write(jobs, proposer)
    assert_same(spoken, silent)
    assert_same_logits(recorded, reference)
    assert sum(len(call.rows) for call in proposer.calls) >= len(jobs), "it was not even asked"


@pytest.mark.parametrize("seed", range(3))
def test_adversaries_in_turn_change_nothing(world: World, seed: int) -> None:
    jobs = oracle_jobs(0.8, seed)
    silent, _, _ = world.write(plain(jobs))
    oracle = Oracle(texts_of(jobs, silent), VOCAB_SIZE)
    scripts = adversaries(oracle, VOCAB_SIZE, EOS)
    spoken, _, counters = world.write(jobs, Scripted(chaos(scripts, seed)), prefill_chunk=7)
    assert_same(spoken, silent)
    assert counters["accepted_tokens"] > 0
    assert counters["illegal_rows"] > 0
    assert counters["stale_rows"] > 0


def test_what_follows_an_end_within_a_round_is_neither_written_nor_accepted(world: World) -> None:
    """The oracle is right beyond every end, so that there is something to drop."""
    base, long = long_text(world)
    whole = texts_of([base], [long])
    for sampling, reason, limits in ends_of(base, long):
        job = replace(base, sampling=sampling)
        oracle = Scripted(by_row(Oracle(whole, VOCAB_SIZE)))
        silent, _, _ = world.write(plain([job]), **limits)
        spoken, _, counters = world.write([job], oracle, **limits)
        assert_same(spoken, silent)
        (client,) = spoken
        usage = client.usage
        assert client.reason is reason
        assert usage.completion_tokens < len(long.ids)
        assert usage.accepted_tokens == counters["accepted_tokens"]
        assert sum(n * counters[f"accepted_{n}"] for n in range(9)) == usage.accepted_tokens
        # The prefill's token, one of the target's own per round but for a round cut short.
        cut_short = client.traces[-1].drafted_by is not None
        assert usage.completion_tokens == 1 + usage.rounds + usage.accepted_tokens - cut_short


def long_text(world: World) -> tuple[Job, Client]:
    """A job whose text does not end by itself, and that text."""
    for seed in range(20):
        job = Job(
            "job-0", prompts(1)[0], SamplingParams(seed, 0.8, max_tokens=40), Plan((), 0.0, 8)
        )
        (client,), _, _ = world.write(plain([job]))
        if client.reason is FinishReason.LENGTH:
            return job, client
    raise AssertionError("no seed gives a long text")


def ends_of(base: Job, long: Client) -> list[tuple[SamplingParams, FinishReason, dict[str, int]]]:
    """Ways to end the text a few tokens into a round of eight."""
    shown = [trace.text for trace in long.traces]
    word = "".join(shown[8:14])
    assert "".join(shown).find(word) == len("".join(shown[:8])), "the stop string comes earlier"
    return [
        (replace(base.sampling, stop=(word,)), FinishReason.STOP, {}),
        (replace(base.sampling, max_tokens=13), FinishReason.LENGTH, {}),
        (base.sampling, FinishReason.LENGTH, {"max_context": len(base.prompt_ids) + 14}),
    ]


def test_an_end_of_text_inside_a_right_proposal_ends_the_text_there(world: World) -> None:
    found = 0
    for seed in range(60):
        job = Job(
            "job-0", prompts(1)[0], SamplingParams(seed, 1.3, max_tokens=30), Plan((), 0.0, 8)
        )
        silent, _, _ = world.write(plain([job]))
        if silent[0].reason is FinishReason.LENGTH:
            continue
        oracle = Oracle(texts_of([job], silent), VOCAB_SIZE)
        spoken, _, _ = world.write([job], Scripted(by_row(oracle)))
        assert_same(spoken, silent)
        assert spoken[0].ids[-1] == EOS
        found += spoken[0].traces[-1].drafted_by is not None
        if found == 3:
            return
    raise AssertionError("the texts of all seeds were too long")
