"""Real texts of SmolLM2, and what the shipped draft guesses in them: a world for `tests.arms`.

`python -m tests.recorded` writes the file again that the tests read: texts of three kinds, greedy,
and what work costs on the machine that ran it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from s2d_ray.bench.alternate import Case
from s2d_ray.bench.costs import measure_costs
from s2d_ray.bench.rig import Parts
from s2d_ray.core.calibration import AcceptanceModel
from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel
from s2d_ray.core.goodput import Candidate
from s2d_ray.core.lookup import Experience
from s2d_ray.core.replay import Rewriting, Trace
from s2d_ray.engine.messages import Mode
from s2d_ray.models import draft_files
from s2d_ray.tuning.gather import network_of
from s2d_ray.tuning.record import Recorder
from s2d_ray.tuning.search import QUICK, replay_all, worth_keeping
from s2d_ray.tuning.trace_file import Traced, plain, traced
from tests.serve.service import QUICKSTART, TARGETS

FILE = Path(__file__).parent / "data" / "recorded.json"
TOKENS = 64
HOP_S = 0.001
TIMED = 5

PROMPTS = {
    "code": (
        "Write a Python function that tells whether a number is prime.",
        "Write a Python function that reverses a list in place.",
        "Write a Python class for a stack with push and pop.",
        "Write a Python function that counts the words of a text.",
        "Write a Python function that computes the factorial of n.",
        "Write a Python function that finds the largest number of a list.",
        "Write a Python function that merges two sorted lists.",
        "Write a Python function that reads a CSV file.",
    ),
    "prose": (
        "Why do leaves change their colour in autumn?",
        "Tell me a story about a lighthouse keeper.",
        "What should I think about before I buy a bicycle?",
        "Explain to a child how a bridge stays up.",
        "Describe a market in a small town on a Saturday.",
        "How did people tell the time before there were clocks?",
        "Write a letter to a friend who has moved to another city.",
        "What makes a good teacher?",
    ),
    "translation": (
        "Translate into French: The train leaves at seven in the morning.",
        "Translate into German: My sister has bought a new house by the sea.",
        "Translate into Spanish: We would like to order two coffees, please.",
        "Translate into Italian: The museum is closed on Mondays.",
        "Translate into French: I have forgotten my umbrella at the office.",
        "Translate into German: The children play in the garden behind the school.",
        "Translate into Spanish: Where is the nearest pharmacy?",
        "Translate into Italian: The soup is too hot to eat.",
    ),
}


@dataclass(frozen=True)
class Recorded:
    """Each kind's texts with odd places are calibrated on, the others served, in random order."""

    costs: CostModel
    traces: dict[str, list[Trace]]

    def candidates(self, kind: str) -> Sequence[Candidate]:
        return _kept(self, kind)

    def known(self, plan: Plan, kind: str) -> Candidate:
        return _replayed(self, plan, kind)

    def text(self, kind: str, rng: random.Random) -> Rewriting:
        return Rewriting(rng.choice(self.traces[kind][::2]), Experience())

    def __hash__(self) -> int:
        return id(self)


@cache
def _kept(world: Recorded, kind: str) -> list[Candidate]:
    """What calibration would put into the plan file; chains without tier 0, as texts here come in
    no order that it could learn from."""
    traces = world.traces[kind][1::2]
    plans = QUICK.plans(traces[0].exit_layers, AcceptanceModel(()))
    plans = [plan for plan in plans if not plan.min_match]
    found = [each.candidate() for each in replay_all(plans, traces, 64, world.costs)]
    return worth_keeping(found, world.costs)


@cache
def _replayed(world: Recorded, plan: Plan, kind: str) -> Candidate:
    return next(replay_all([plan], world.traces[kind][::2], 64, world.costs)).candidate()


@cache
def recorded() -> Recorded:
    """The world in the file."""
    tree = json.loads(FILE.read_text(encoding="utf-8"))
    traces: dict[str, list[Trace]] = {kind: [] for kind in PROMPTS}
    for each in map(traced, tree["traces"]):
        traces[each.task].append(each.trace)
    return Recorded(CostModel.from_json(tree["costs"]), traces)


def record() -> dict[str, Any]:
    """Have all texts written, and measure what work costs."""
    config = QUICKSTART.model_copy(update={"targets": {TARGETS[0]: QUICKSTART.targets[TARGETS[0]]}})
    with ExitStack() as stack:
        parts = Parts(config, stack, print)
        network = network_of(parts)
        recorder = Recorder(network, draft_files.read_card(parts.draft_folder).eos_token_ids)
        text = parts.first.target.text
        write = parts.first.ours(Plan(), Mode.OFF)
        traces = []
        for kind, prompts in PROMPTS.items():
            for number, prompt in enumerate(prompts):
                ids = tuple(text.encode_chat([{"role": "user", "content": prompt}]))
                ends = tuple(sorted(text.eos_token_ids))
                case = Case(prompt, (ids,), TOKENS, end_ids=ends)
                trace = recorder.record(
                    ids,
                    write(case).texts[0],
                    max_tokens=TOKENS,
                    temperature=0.0,
                    seed=case.sampling(0).seed,
                    end_ids=ends,
                )
                traces.append(plain(Traced(TARGETS[0], number, kind, trace)))
                print(f"{kind} {number}: {len(trace.output_ids)} tokens", flush=True)
        costs = measure_costs(parts.first.target.model, network, HOP_S, TIMED, 1)
    return {"costs": costs.to_json(), "traces": [rounded(each) for each in traces]}


def rounded(tree: dict[str, Any]) -> dict[str, Any]:
    """The same with confidences of four digits."""
    confidence = [[round(value, 4) for value in row] for row in tree["confidence"]]
    return tree | {"confidence": confidence}


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(record(), separators=(",", ":")) + "\n", encoding="utf-8")
