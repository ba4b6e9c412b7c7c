"""Whatever the controller and the control group do, the text stays as it is (tiny models)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from s2d_ray.core.cascade import Plan
from s2d_ray.core.goodput import PLAIN, Candidate
from s2d_ray.core.params import JsonFormat, SamplingParams
from s2d_ray.engine.control_group import WINDOW
from s2d_ray.engine.controller import Choice, Controller
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.messages import Mode
from s2d_ray.engine.steering import Settings, Steering
from s2d_ray.models.ragged import RaggedModel
from tests.arms import COSTS
from tests.scripted import Forest, Scripted, adversaries, by_row, chaos, engine_script
from tests.targets import Client, Job, make_engine, total, write
from tests.tiny import EOS, VOCAB_SIZE, tiny_decoder, tiny_draft_network, tiny_text

ENDS = frozenset({EOS})
TEXT = tiny_text()
DECODER = tiny_decoder("llama", torch.float64, layers=3, seed=5)
MODEL = RaggedModel(DECODER, cache_tokens=4_096)


class Hostile(Controller):
    """Another plan in every step, whatever it is worth."""

    def __init__(self, seed: int) -> None:
        super().__init__({"chat": [PLAIN]}, COSTS, random.Random(seed))
        self._rng = random.Random(seed)
        self.chosen: set[Plan] = set()

    def begin(self, tasks: Sequence[str], num_rows: int, *, frozen: bool) -> dict[str, Choice]:
        rng = self._rng
        plan = Plan(
            tuple(rng.random() for _ in range(rng.randint(0, 3))),
            rng.choice([0.0, 0.05, 0.5, 1.0]),
            rng.randint(0, 9),
            rng.choice([1, 1, 2, 4]),
            rng.choice([1, 2, 32]),
            rng.choice([0, 1, 3]),
        )
        self.chosen.add(plan)
        return {task: Choice(task, 0, Candidate(plan), "to do harm") for task in tasks}


def hostile(seed: int) -> tuple[Steering, Hostile]:
    steering, controller = Steering(Settings(share=0.25), seed), Hostile(seed)
    steering.follow(controller)
    return steering, controller


def jobs(seed: int) -> list[Job]:
    """Samplings of all kinds, one of them held to a grammar, some rows not to be steered."""
    changes = [
        {},
        {"temperature": 0.0},
        {"repetition_penalty": 1.2, "top_p": 0.9},
        {"min_tokens": 9, "logit_bias": ((EOS, 3.0),)},
        {"temperature": 1.3, "top_k": 5},
        {"format": JsonFormat()},
    ]
    samplings = [
        replace(SamplingParams(100 * seed + i, 0.8, max_tokens=40), **each)  # type: ignore[arg-type]
        for i, each in enumerate(changes)
    ]
    prompts = [
        tuple(2 + (13 * i + 7 * j) % (VOCAB_SIZE - 2) for j in range(9 + i)) for i in range(6)
    ]
    made = [
        Job(f"job-{i}", prompt, sampling, Plan((), 0.0, 4), Mode.AUTO, "chat")
        for i, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True))
    ]
    made[3] = replace(made[3], mode=Mode.FORCE if seed % 2 else Mode.AUTO)
    return made


def written(
    made: Sequence[Job], proposer: Scripted | None = None, steering: Steering | None = None
) -> list[Client]:
    engine = make_engine(MODEL, TEXT, eos=ENDS, prefill_chunk=16)
    clients = write(MODEL, engine, made, proposer, steering)
    allocator = MODEL.pool.allocator
    assert allocator.num_free_blocks == allocator.num_blocks, "blocks were lost"
    return clients


def plainly(made: Sequence[Job]) -> list[Client]:
    return written([replace(job, mode=Mode.OFF) for job in made])


@pytest.mark.parametrize("seed", range(2))
def test_a_hostile_controller_with_a_real_draft_changes_no_text(seed: int) -> None:
    made = jobs(seed)
    steering, controller = hostile(seed)
    network = tiny_draft_network(DECODER, (1, 2, 3), cache_tokens=2_048)
    engine = DraftEngine(network, ENDS, prefill_chunk=16, max_debt=24, run_ahead=True)
    spoken = written(made, Scripted(engine_script(engine)), steering)
    assert [each.outcome for each in spoken] == [each.outcome for each in plainly(made)]
    assert len(controller.chosen) > 20
    assert total(spoken)["accepted"] > 0


@pytest.mark.parametrize("seed", range(2))
def test_nor_does_one_whose_draft_is_hostile_too(seed: int) -> None:
    made = [replace(job, sampling=replace(job.sampling, format=None)) for job in jobs(seed)]
    silent = plainly(made)
    texts = {
        job.name: [*job.prompt_ids, *client.ids, *[11, 12, 13] * 200]
        for job, client in zip(made, silent, strict=True)
    }
    forest = Forest(texts, VOCAB_SIZE, 0.3, seed)
    scripts = adversaries(forest, VOCAB_SIZE, EOS) | {"trees": by_row(forest)}
    spoken = written(made, Scripted(chaos(scripts, seed)), hostile(seed)[0])
    assert [each.outcome for each in spoken] == [each.outcome for each in silent]


def test_windows_without_speculation_change_no_text() -> None:
    sampling = SamplingParams(7, 0.8, max_tokens=60, ignore_eos=True)
    made = [
        replace(job, sampling=replace(sampling, seed=number))
        for number, job in enumerate(jobs(0)[:2])
    ]
    steering = Steering(Settings(share=0.25), seed=1)
    network = tiny_draft_network(DECODER, (1, 2, 3), cache_tokens=2_048)
    draft = Scripted(engine_script(DraftEngine(network, ENDS, prefill_chunk=16, max_debt=24)))
    spoken = written(made, draft, steering)
    assert [each.outcome for each in spoken] == [each.outcome for each in plainly(made)]
    assert steering.counters["control_steps"] >= WINDOW
