"""Replay says what real decoding does, and the optimiser finds the best plan there is."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from operator import add

import pytest
import torch

from s2d_ray.bench.alternate import Case
from s2d_ray.bench.ours import fixed_exit
from s2d_ray.bench.rig import Parts
from s2d_ray.config import AppConfig
from s2d_ray.core.calibration import AcceptanceModel
from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel, Provenance
from s2d_ray.core.goodput import PLAIN, goodput
from s2d_ray.core.replay import Rounds, Spot, Trace, replay
from s2d_ray.core.threads import OneThread
from s2d_ray.engine.messages import Mode
from s2d_ray.models import draft_files
from s2d_ray.tuning.record import Recorder
from s2d_ray.tuning.search import Grid, ranked, replay_all, worth_keeping
from tests.tiny import EOS, tiny_checkpoint, whole_draft

EXITS = (2, 4, 6)
PROMPTS = tuple(tuple(random.Random(n).choices(range(2, 40), k=12 + n)) for n in range(2))
TOKENS = 24


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A tiny target, and its own layers as the draft, which stops at no end token of its own."""
    folder = tmp_path_factory.mktemp("replay")
    model = tiny_checkpoint(folder / "target")
    whole_draft(folder / "draft", model, EXITS, end_ids=())
    config = AppConfig.model_validate(
        {
            "targets": {"tiny": {"model": str(model), "num_threads": 1}},
            "draft": {
                "checkpoint": str(folder / "draft"),
                "num_threads": 1,
                "deadline_ms": 60_000,
                "force_deadline_ms": 60_000,
            },
        }
    )
    with OneThread(), ExitStack() as stack:
        yield Parts(config, stack, lambda line: None)


def cases() -> list[Case]:
    """Greedy and drawn, some of which end by themselves."""
    return [
        Case(f"{temperature}", PROMPTS, TOKENS, 1, temperature, end_ids=ends)
        for temperature, ends in ((0.0, ()), (1.0, (EOS,)))
    ]


@pytest.fixture(scope="module")
def traces(parts: Parts) -> dict[str, list[Trace]]:
    """The texts as plain decoding writes them, and all guesses about them."""
    network = draft_files.load_network(
        parts.draft_folder, "float32", torch.device("cpu"), cache_tokens=512
    )
    recorder = Recorder(network, ())
    plain = parts.first.ours(Plan(), Mode.OFF)
    found = {}
    for case in cases():
        texts = plain(case).texts
        found[case.name] = [
            recorder.record(
                prompt,
                text,
                max_tokens=TOKENS,
                temperature=case.temperature,
                seed=case.sampling(index).seed,
                end_ids=case.end_ids,
            )
            for index, (prompt, text) in enumerate(zip(case.prompts, texts, strict=True))
        ]
    return found


FIXED = [
    replace(fixed_exit(Plan(max_proposal=length, min_match=0), depth, len(EXITS)))
    for depth, length in ((0, 3), (1, 8))
]
OTHERS = [
    Plan((0.4, 0.6), 0.0, 5, min_match=0),
    Plan((0.9, 0.2), 0.3, 6, min_match=0),
    Plan((0.2, 0.0), 0.0, 4, tree_width=3, tree_depth=2, min_match=0),
]


@pytest.mark.parametrize(
    "plan",
    [
        Plan((0.5, 0.5), 0.1, 6, min_match=1, draft_toll=0.0),
        Plan((0.5, 0.5), 0.1, 6, min_match=1, draft_toll=1.0),
        Plan((0.5, 0.5), 0.1, 3, min_match=1, max_lookup=12),
        Plan((), max_proposal=0, min_match=1, max_lookup=6),
        *FIXED,
        *OTHERS,
    ],
)
def test_replay_commits_what_real_decoding_does(
    plan: Plan, parts: Parts, traces: dict[str, list[Trace]]
) -> None:
    """Rounds and accepted guesses to the last one, at every temperature. What lies behind wrong
    guesses concerns costs alone, and where every token leaves at one exit, it is known as well."""
    mode = Mode.AUTO if plan.min_match else Mode.FORCE
    seat = parts.first
    batch = seat.target.batch
    batch._proposing._tier0.__init__(batch.counters)  # type: ignore[misc]
    real = seat.ours(plan, mode, parts.draft)
    # Tier 0 learns from text to text, so the order of all texts counts.
    told = replay(plan, [trace for case in cases() for trace in traces[case.name]])
    for number, case in enumerate(cases()):
        written = real(case)
        assert written.texts == tuple(trace.output_ids for trace in traces[case.name])
        sums = reduce(add, told[number * len(PROMPTS) : (number + 1) * len(PROMPTS)], Rounds())
        assert sums.rounds == written.rounds
        assert sums.committed == sum(map(len, written.texts)) - len(PROMPTS)
        nodes = sum(count * rounds for count, rounds in sums.nodes.items())
        if not (plan.min_match or plan.stop_threshold or case.end_ids):
            assert nodes == written.drafted
            candidate = sums.candidate(plan)
            steps = {e: round(n * sums.rounds) for e, n in candidate.draft_steps.items()}
            assert sum(steps.values()) == sum(written.steps.values())
            if plan in FIXED:
                assert Counter(steps) == Counter(written.steps)


def test_the_deepest_exit_of_a_draft_that_is_the_target_is_always_right(
    traces: dict[str, list[Trace]],
) -> None:
    for trace in (each for of in traces.values() for each in of):
        assert all(spots[-1].rank == 0 for spots in trace.spots)
        assert any(spots[0].rank != 0 for spots in trace.spots)


COSTS = CostModel(
    draft_s={(2, 1): 1.0, (4, 1): 2.0, (2, 64): 1.0, (4, 64): 2.0},
    forward_s={(1, 1): 10.0, (1, 4): 14.0},
    prefill_s={64: 30.0},
    hop_s=0.5,
    origin=Provenance("h", "c", "d"),
)


def toy(seed: int) -> Trace:
    """Guesses of two exits whose confidence tells something."""
    rng = random.Random(seed)

    def spot(skill: float) -> Spot:
        right = rng.random() < skill
        return Spot(rng.choice((0.5, 0.9) if right else (0.1, 0.5)), 0 if right else -1)

    spots = [(spot(0.5), spot(0.8)) for _ in range(29)]
    return Trace((2, 4), (1, 2, 3), tuple(range(30)), 30, 0.0, (), spots)


def seconds_by_hand(trace: Trace, threshold: float, stop: float, length: int) -> float:
    """The toy's time, walked token by token: chains without tier 0; positions cost nothing."""
    place, seconds = 0, 0.0
    while place < len(trace.spots):
        if length == 0 or place == len(trace.spots) - 1:
            seconds, place = seconds + COSTS.forward(1, 1), place + 1
            continue
        wrong, path, level, taken = False, 1.0, 0, 0
        room = len(trace.spots) - place
        seconds += COSTS.hop_s
        while level < min(length, room):
            shallow, deep = trace.spots[place + level]
            climbs = shallow.confidence < threshold
            spoken = deep if climbs else shallow
            seconds += 2.0 if climbs else 1.0
            path *= spoken.confidence
            if path < stop:
                break
            if level < room - 1:
                wrong = wrong or spoken.rank != 0
                taken += not wrong
            level += 1
        seconds += COSTS.forward(1, 1 + min(level, room - 1))
        place += taken + 1
    return seconds


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_is_that_of_all_plans_walked_by_hand(seed: int) -> None:
    texts = [toy(10 * seed + number) for number in range(2)]
    thresholds, stops, lengths = (0.0, 0.3, 0.7, 1.0), (0.0, 0.2, 0.45), (1, 2, 3, 5)
    by_hand = {
        (threshold, stop, length): 58
        / sum(seconds_by_hand(text, threshold, stop, length) for text in texts)
        for threshold, stop, length in itertools.product(thresholds, stops, (0, *lengths))
    }
    grid = Grid(lengths, stops, chances=(0.3, 0.7), lookups=(0,))
    found = list(replay_all(grid.plans((2, 4), AcceptanceModel(())), texts, 64, COSTS))
    assert len(found) == len(thresholds) * len(stops) * len(lengths) + 1
    candidates = [each.candidate() for each in found]
    best = ranked(candidates, COSTS, 1)[0]
    assert goodput(best, COSTS, 1) == pytest.approx(max(by_hand.values()))
    for candidate in candidates:
        plan = candidate.plan
        if not candidate.is_plain:
            key = (plan.exit_thresholds[0], plan.stop_threshold, plan.max_proposal)
            assert goodput(candidate, COSTS, 1) == pytest.approx(by_hand[key])
    kept = worth_keeping(candidates, COSTS)
    assert any(each.is_plain for each in kept)
    assert goodput(kept[0], COSTS, 1) >= goodput(PLAIN, COSTS, 1)
