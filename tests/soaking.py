"""Random traffic through two targets and their shared draft, compared with plain runs.

Everything runs in this process, on tiny models whose layers keep bits. Caches are so small that
draft sessions are evicted and that texts of the second target are preempted and moved. Runs begin
without room ahead, so that they grow often, and clients leave at any moment.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine import schedule
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.messages import Mode
from s2d_ray.engine.target_batch import TargetBatch
from s2d_ray.engine.target_loop import TargetLoop
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork
from tests.features import FEATURES
from tests.targets import Client, Job, make_engine, send, wait_for
from tests.tiny import EOS, VOCAB_SIZE, threads, tiny_decoder, tiny_draft_network, tiny_text

WAVE = 24
CACHE_TOKENS = (2_048, 448)
"""Of each target: room for all that it runs, and for little more than its longest text."""

CROWD = (1, 3, 5, 7)
"""Of each wave: long texts that the tight pool cannot hold together."""

OUTGROWING = {"max_tokens": 150, "ignore_eos": True}
PATIENCE_S = 60.0


@dataclass
class Target:
    """One target with its loop running."""

    model: RaggedModel
    batch: TargetBatch
    loop: TargetLoop


@dataclass
class Service:
    """Two targets and the draft they share."""

    targets: list[Target]
    draft: DraftEngine
    draft_network: DraftNetwork

    def is_empty(self) -> bool:
        """Whether no block but those of prefix caches is in use, and no draft session."""
        allocator = self.draft_network.pool.allocator
        num_free = allocator.num_free_blocks + self.draft.num_held_blocks
        num_used = [allocator.num_blocks - num_free]
        for target in self.targets:
            allocator = target.model.pool.allocator
            num_free = allocator.num_free_blocks + target.batch.num_held_blocks
            num_used.append(allocator.num_blocks - num_free)
        return self.draft.num_sessions == 0 and not any(num_used)


@contextmanager
def service() -> Iterator[Service]:
    """Started, and ended in the end."""
    with threads(1), patch.object(schedule, "AHEAD", 0):
        small = tiny_decoder("llama", torch.float32, layers=2, seed=1)
        network = tiny_draft_network(small, (1, 2), cache_tokens=640)
        draft = DraftEngine(network, {EOS}, prefill_chunk=32, max_debt=24, idle_s=5.0)
        draft_loop = DraftLoop(draft, num_threads=1)
        draft_loop.start()
        targets = [make_target(number, draft_loop) for number in range(2)]
        try:
            yield Service(targets, draft, network)
        finally:
            for target in targets:
                target.loop.stop()
            draft_loop.stop()


def make_target(number: int, draft_loop: DraftLoop) -> Target:
    """The same architecture with other weights, in a replica of its own."""
    client = DraftClient(deadline_s=5.0, force_deadline_s=30.0)
    client.connect(draft_loop.submit, epoch=1)
    decoder = tiny_decoder("llama", torch.float32, layers=2, seed=1 + number, linear="packed")
    model = RaggedModel(decoder, CACHE_TOKENS[number])
    batch = make_engine(
        model,
        tiny_text(),
        eos=frozenset({EOS}),
        max_batch=6,
        prefill_chunk=48,
        replica=f"replica-{number}",
        prefix_cache=True,
    )
    loop = TargetLoop(batch, model, client, num_threads=1)
    loop.start()
    return Target(model, batch, loop)


def random_job(rng: random.Random, name: str, features: dict[str, Any]) -> Job:
    """Any length, plan and mode; some prompts repeat themselves or others."""
    length = rng.choice([1, 5, 30, 64, 65, 150])
    prompt = [rng.randrange(2, VOCAB_SIZE) for _ in range(length)]
    if rng.random() < 0.2:
        prompt = (prompt[:7] * 30)[:length]
    elif rng.random() < 0.4:
        prompt = [*range(2, 90), *range(2, 60), *prompt[:40]]
    fields = dict(features)
    fields.setdefault("max_tokens", 60 if fields.get("format") else rng.choice([1, 2, 20, 70]))
    plan = Plan(
        (rng.choice([0.0, 0.3, 1.0]),),
        rng.choice([0.0, 0.0, 0.1]),
        rng.randrange(9),
        rng.choice([1, 1, 2, 3]),
        rng.choice([1, 32]),
        rng.choice([0, 2, 3]),
    )
    sampling = SamplingParams(rng.randrange(2**53), rng.choice([0.0, 0.7, 1.2]), **fields)
    mode = rng.choice([Mode.AUTO, Mode.AUTO, Mode.FORCE, Mode.OFF])
    return Job(name, tuple(prompt), sampling, plan, mode)


def soak(running: Service, seconds: float, seed: int) -> Counter[str]:
    """Wave after wave until the time is over. -> counts. Raises AssertionError at another text."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    until_s = time.monotonic() + seconds
    while not counts or time.monotonic() < until_s:
        one_wave(running, rng, counts)
    return counts


def one_wave(running: Service, rng: random.Random, counts: Counter[str]) -> None:
    """Jobs on both targets at once, some left early; then the same texts written plainly."""
    jobs = [
        random_job(
            rng,
            f"{counts['texts']}-{number}",
            OUTGROWING if number in CROWD else rng.choice(list(FEATURES.values())),
        )
        for number in range(WAVE)
    ]
    homes = [running.targets[number % 2] for number in range(WAVE)]
    leavers = {number for number in range(WAVE) if rng.random() < 0.2}
    clients: list[Client] = []
    for number, (job, home) in enumerate(zip(jobs, homes, strict=True)):
        clients += send(home.loop, [job])
        if number in leavers:
            if rng.random() < 0.5:
                clients[-1].written.wait(rng.random() * 0.05)
            home.loop.abort(job.name)
    stayed = [number for number in range(WAVE) if number not in leavers]
    wait_for([clients[number] for number in stayed])
    for number in stayed:
        plain = replace(jobs[number], name=f"{jobs[number].name}-plain", mode=Mode.OFF)
        (reference,) = send(homes[number].loop, [plain])
        wait_for([reference])
        assert clients[number].outcome == reference.outcome, jobs[number]
        usage = clients[number].usage
        counts["drafted"] += usage.drafted_tokens
        counts["accepted"] += usage.accepted_tokens
        counts["tokens"] += usage.completion_tokens
    counts["texts"] += len(stayed)
    counts["left"] += len(leavers)
    counts["waves"] += 1


def check_empty(running: Service) -> None:
    """Nothing is held once the draft has heard of the last sessions, or forgot them by itself."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not running.is_empty():
        assert time.monotonic() < deadline_s, "blocks or draft sessions are left"
        time.sleep(0.1)
