"""Same seed, same ids, bit for bit, on the real SmolLM2 in float32 and int8 on the CPU.

`make exact` runs many more cases; this is a seeded sample, and what needs real weights besides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from s2d_ray.bench.exact_cases import PROMPTS, TEMPERATURES, all_plans
from s2d_ray.config import DraftConfig, Precision, TargetConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.assemble import Target, make_draft, make_target
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.messages import Mode
from s2d_ray.engine.protocol import ProposeCall, ProposeReply
from s2d_ray.models import draft_files
from s2d_ray.models.linear import replace_linears
from s2d_ray.models.loading import load_decoder
from s2d_ray.models.sorted_draft import DraftNetwork, cut_draft
from s2d_ray.models.text import Text
from s2d_ray.models_cli import QUICKSTART
from tests.features import FEATURES
from tests.scripted import Forest, Oracle, Script, by_row
from tests.targets import Client, Job, send, total, wait_for

pytestmark = pytest.mark.usefixtures("two_threads")

NUM_TOKENS = 24
CPU = torch.device("cpu")

Case = tuple[str, int, float, Plan]
"""(name, prompt, temperature, plan)."""


def sample(seed: int) -> list[Case]:
    """Twelve cases, each temperature four times; `make exact` has the longer proposals."""
    rng = random.Random(seed)
    plans = rng.sample([plan for plan in all_plans() if plan.max_proposal <= 4], 12)
    chosen = rng.sample(range(len(PROMPTS)), 12)
    return [
        (f"case-{i}", prompt, TEMPERATURES[i % 3], plan)
        for i, (prompt, plan) in enumerate(zip(chosen, plans, strict=True))
    ]


LONE, CROWD = sample(seed=7)[:2], sample(seed=7)[2:]


class Switch:
    """A `Proposer` that hands calls to whoever a test has put behind it."""

    def __init__(self) -> None:
        self.behind: DraftClient | Script | None = None

    def propose(self, call: ProposeCall, force: bool) -> ProposeReply | None:
        if isinstance(self.behind, DraftClient):
            return self.behind.propose(call, force)
        return self.behind(call) if self.behind else None

    def available(self) -> bool:
        return self.behind is not None


@dataclass
class Host:
    """A loaded target with its loop running."""

    target: Target
    switch: Switch

    def jobs(self, cases: Sequence[Case], mode: Mode) -> list[Job]:
        return [
            Job(
                f"{name}-{mode}",
                tuple(self.target.text.encode_chat([{"role": "user", "content": PROMPTS[prompt]}])),
                SamplingParams(prompt, temperature, max_tokens=NUM_TOKENS),
                plan,
                mode,
            )
            for name, prompt, temperature, plan in cases
        ]

    def write(self, jobs: Sequence[Job]) -> list[Client]:
        clients = send(self.target.loop, jobs, self.target.vocabulary)
        wait_for(clients)
        return clients


def client_of(draft: DraftLoop) -> DraftClient:
    client = DraftClient(deadline_s=60.0, force_deadline_s=60.0)
    client.connect(draft.submit, epoch=1)
    return client


@pytest.fixture(scope="module")
def quickstart_draft(smollm2: Path) -> Iterator[DraftLoop]:
    config = DraftConfig(base=QUICKSTART)
    loop = make_draft(config, draft_files.ensure_draft(config))
    loop.start()
    yield loop
    loop.stop()


@pytest.fixture(scope="module", params=["float32", "int8"])
def host(smollm2: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    precision: Precision = request.param
    switch = Switch()
    config = TargetConfig(model=str(smollm2), precision=precision)
    loaded = make_target(config, smollm2, switch, replica=precision)
    assert loaded.bitwise_exact, "this host does not keep bits; /health would say so"
    loaded.loop.start()
    yield Host(loaded, switch)
    loaded.loop.stop()


def assert_same(spoken: Sequence[Client], silent: Sequence[Client]) -> None:
    for ours, reference in zip(spoken, silent, strict=True):
        assert ours.outcome == reference.outcome


@dataclass(frozen=True)
class Plain:
    """The sample's texts without speculation, and how the counters moved meanwhile."""

    lone: list[Client]
    crowd: list[Client]
    crowd_counts: dict[str, int]


@pytest.fixture(scope="module")
def plain(host: Host) -> Plain:
    host.switch.behind = None
    lone = [host.write(host.jobs([case], Mode.OFF))[0] for case in LONE]
    counters = host.target.batch.counters
    before = counters.copy()
    crowd = host.write(host.jobs(CROWD, Mode.OFF))
    return Plain(lone, crowd, {name: counters[name] - before[name] for name in counters})


def test_a_sample_of_texts_is_the_same_with_and_without_speculation(
    host: Host, plain: Plain, quickstart_draft: DraftLoop
) -> None:
    """Twelve cases per precision: two alone, ten through a batch of eight."""
    host.switch.behind = client_of(quickstart_draft)
    spoken = [host.write(host.jobs([case], Mode.FORCE))[0] for case in LONE]
    spoken += host.write(host.jobs(CROWD, Mode.FORCE))
    assert_same(spoken, [*plain.lone, *plain.crowd])
    for client in spoken:
        assert client.usage.drafted_tokens > 0 or client.usage.rounds == 0
        assert client.usage.draft_misses == 0


def test_requests_share_forwards_eight_at_a_time(host: Host, plain: Plain) -> None:
    """Forwards are counted: eight texts together cost as many as the longest of them."""
    counts = plain.crowd_counts
    longest = max(client.usage.completion_tokens for client in plain.crowd)
    assert host.target.batch.counters["largest_batch"] == 8
    assert counts["shared_forwards"] > longest / 2
    assert counts["forwards"] <= 2 * longest + len(CROWD)
    assert counts["forwards"] < total(plain.crowd)["completion"] / 3


def test_an_oracle_with_errors_changes_no_text(host: Host, plain: Plain) -> None:
    """Proposals that are mostly right: long accepted runs, and rejections amid them."""
    cases = [(name, prompt, heat, Plan((), 0.0, 8)) for name, prompt, heat, _ in CROWD]
    jobs = host.jobs(cases, Mode.FORCE)
    texts = {
        job.name: [*job.prompt_ids, *client.ids]
        for job, client in zip(jobs, plain.crowd, strict=True)
    }
    oracle = Oracle(texts, host.target.model.vocab_size, error_rate=0.2, seed=3)
    host.switch.behind = by_row(oracle)
    spoken = host.write(jobs)
    assert_same(spoken, plain.crowd)
    sums = total(spoken)
    assert sums["drafted"] > sums["accepted"] > sums["completion"] / 3


@pytest.mark.parametrize("shape", [Oracle, Forest])
def test_every_feature_keeps_its_bits_under_chains_and_trees(
    host: Host, featured: tuple[list[Job], list[Client]], shape: type[Oracle]
) -> None:
    """Sixteen features through a batch of eight, log-probabilities compared without tolerance."""
    jobs, silent = featured
    texts = {
        job.name: [*job.prompt_ids, *client.ids, *[11, 12, 13] * 20]
        for job, client in zip(jobs, silent, strict=True)
    }
    host.switch.behind = by_row(shape(texts, host.target.model.vocab_size, 0.2, seed=5))
    spoken = host.write(jobs)
    assert_same(spoken, silent)
    for ours, reference in zip(spoken, silent, strict=True):
        assert [(t.logprob, t.alternatives) for t in ours.traces] == [
            (t.logprob, t.alternatives) for t in reference.traces
        ]
    assert total(spoken)["accepted"] > total(spoken)["completion"] / 3


@pytest.fixture(scope="module")
def featured(host: Host) -> tuple[list[Job], list[Client]]:
    """One job for each feature, and their texts without speculation."""
    cases = [
        (f"feature-{name}", number % len(PROMPTS), 0.8, Plan((), 0.0, 4))
        for number, name in enumerate(FEATURES)
    ]
    jobs = [
        replace(job, sampling=replace(job.sampling, **({"max_tokens": 14} | fields)))
        for job, fields in zip(host.jobs(cases, Mode.FORCE), FEATURES.values(), strict=True)
    ]
    jobs = [
        replace(job, sampling=replace(job.sampling, max_tokens=24)) if job.sampling.format else job
        for job in jobs
    ]
    host.switch.behind = None
    return jobs, host.write([replace(job, mode=Mode.OFF) for job in jobs])


def _up_to_end(ids: list[int], eos: Sequence[int]) -> list[int]:
    ends = [index for index, token in enumerate(ids) if token in eos]
    return ids[: ends[0] + 1] if ends else ids


class Reference:
    """The stock model: plain `transformers` generation, and the draft cut from all its layers."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = load_decoder(folder, torch.float32, CPU)
        self.model.set_attn_implementation("sdpa")

    def greedy(
        self, prompts: Sequence[Sequence[int]], count: int, eos: Sequence[int]
    ) -> list[list[int]]:
        """What stock generation writes behind each prompt, the end token included."""
        width = max(map(len, prompts))
        ids = torch.tensor([[eos[0]] * (width - len(ids)) + list(ids) for ids in prompts])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        out = self.model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=list(eos),
            pad_token_id=eos[0],
        )
        return [_up_to_end(row, eos) for row in out[:, width:].tolist()]

    def gap(self, ids: Sequence[int]) -> float:
        """Between the two best scores of the next token."""
        with torch.inference_mode():
            best = self.model(torch.tensor([list(ids)])).logits[0, -1].topk(2).values
        return float(best[0] - best[1])

    def deep_draft(self, folder: Path) -> DraftLoop:
        """Exits 22, 28 and 30 of 30: the deepest sub-model is the target, under a trimmed head."""
        draft = cut_draft(self.model, draft_files.trimmed_ids(folder, 8_192), (22, 28, 30))
        draft = draft.eval().requires_grad_(False)
        replace_linears(draft, "packed")
        draft.split()
        network = DraftNetwork(draft, cache_tokens=2_048)
        return DraftLoop(DraftEngine(network, Text(folder).eos_token_ids))


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> Reference:
    return Reference(smollm2)


@pytest.fixture(scope="module")
def deep_draft(smollm2: Path, reference: Reference) -> Iterator[DraftLoop]:
    loop = reference.deep_draft(smollm2)
    loop.start()
    yield loop
    loop.stop()


@pytest.mark.parametrize("host", ["float32"], indirect=True)
def test_a_deep_draft_is_often_right_and_changes_no_text(host: Host, deep_draft: DraftLoop) -> None:
    cases = [
        ("deep-0", 0, 0.0, Plan((1.0, 1.0), 0.0, 4)),
        ("deep-1", 2, 0.7, Plan((0.6, 0.6), 0.0, 3)),
    ]
    silent = host.write(host.jobs(cases, Mode.OFF))
    host.switch.behind = client_of(deep_draft)
    spoken = host.write(host.jobs(cases, Mode.FORCE))
    assert_same(spoken, silent)
    assert total(spoken)["accepted"] > total(spoken)["completion"] / 3


@pytest.mark.parametrize("host", ["float32"], indirect=True)
def test_greedy_text_equals_that_of_transformers(
    host: Host, reference: Reference, record_property: Any
) -> None:
    """A difference is allowed only where the two best scores lie within 1e-3 of each other."""
    host.switch.behind = None
    cases = [(f"greedy-{i}", i, 0.0, Plan()) for i in range(len(PROMPTS))]
    jobs = [
        replace(job, sampling=replace(job.sampling, max_tokens=16))
        for job in host.jobs(cases, Mode.OFF)
    ]
    num_near_ties = 0
    eos = sorted(host.target.text.eos_token_ids)
    stock = reference.greedy([job.prompt_ids for job in jobs], 16, eos)
    for job, client, theirs in zip(jobs, host.write(jobs), stock, strict=True):
        if list(client.ids) == theirs:
            continue
        common = next(i for i, (a, b) in enumerate(zip(client.ids, theirs, strict=False)) if a != b)
        assert reference.gap([*job.prompt_ids, *theirs[:common]]) < 1e-3
        num_near_ties += 1
    record_property("near_ties", num_near_ties)
    assert num_near_ties <= 3
