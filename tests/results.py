"""Results as the commands write them, of drawn figures: folders of answers, and last lines."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from s2d_ray.bench import spec_report
from s2d_ray.bench.questions import GROUPS
from s2d_ray.bench.spec_answers import ANSWERS
from s2d_ray.bench.spec_figures import Answer, Answered

CARD = {
    "cpu": "Some CPU, 2 threads",
    "commit": "0123456789ab",
    "config": "c",
    "target": "small: float32",
    "scale": "seed 1",
}
PLANS = {"plain": 1.0, "cascade": 1.3, "exit-2": 0.9, "assisted": 1.1}
"""What each plan is worth over plain decoding."""


def answered(
    number: int,
    draw: random.Random,
    noise: float = 0.05,
    plans: dict[str, float] = PLANS,
    target: str = "small",
) -> Answered:
    """A question whose plans are as quick as they are worth, times lognormal noise."""
    ids = tuple(range(40))
    answers = {
        plan: Answer(
            (ids,),
            40 / (10 * worth * math.exp(draw.gauss(0, noise))),
            rounds=20 if worth > 1 else 40,
            drafted=40,
            accepted=20 if worth > 1 else 0,
            accepted_by={2: 20},
            steps={2: 40},
        )
        for plan, worth in plans.items()
    }
    return Answered(target, number, GROUPS[number % len(GROUPS)], CARD["commit"], answers)


def questions(count: int, seed: int, **changes: Any) -> list[Answered]:
    """So many questions, the same numbers for every seed."""
    draw = random.Random(seed)
    return [answered(number, draw, **changes) for number in range(count)]


def other_text(each: Answered, plan: str) -> Answered:
    """The same, but for one id of a plan."""
    changed = replace(each.answers[plan], turns=((0, 0),))
    return replace(each, answers={**each.answers, plan: changed})


def spec_folder(
    folder: Path, held: list[Answered], card: dict[str, str] = CARD, finished: bool = True
) -> Path:
    """The folder of `bench spec`, reported by itself; else one that is not at its end."""
    folder.mkdir()
    lines = "".join(json.dumps(asdict(each)) + "\n" for each in held)
    (folder / ANSWERS).write_text(lines)
    settings = {"questions": "hash", "max_new_tokens": 64, "temperature": 0.0, "seed": 1}
    (folder / "run.json").write_text(json.dumps(settings))
    if finished:
        spec_report.report(held, ["small"], list(held[0].answers), card, folder)
    return folder


def engine_line(change: float = 1.0, seed: int = 1, noise: float = 0.01) -> dict[str, Any]:
    """A last line of `bench engine` whose first ratio is `change` times as high."""
    draw = random.Random(seed)

    def runs(value: float) -> tuple[float, list[float]]:
        found = sorted(value * math.exp(draw.gauss(0, noise)) for _ in range(3))
        return found[1], [found[0], found[2]]

    methods = ("auto", "force", "exit_4", "tier0", "prompt_lookup", "assisted")
    first, first_ends = runs(1.4 * change)
    speculation = {method: runs(1 + 0.1 * place) for place, method in enumerate(methods)}
    return {
        "plain_vs_generate": first,
        "speculation": {method: of[0] for method, of in speculation.items()},
        "speculation_sampled": {},
        "spread": {
            "plain_vs_generate": first_ends,
            "speculation": {method: of[1] for method, of in speculation.items()},
        },
        "acceptance": {"auto": 0.5},
        "identical": True,
        "forward_rows": {"1": 0.8, "4": 0.9, "8": 1.0},
        "draft_rows_8_vs_1": 1.2,
        "curves_ms": {
            "stock": 40.0,
            "forward": {"1 × 1": 30.0, "1 × 4": 31.0, "2 × 4": 35.0},
            "tree": {},
            "prefill": {"32": 60.0},
            "draft": {"int8": {"4 layers, 1 × 1": 4.0, "4 layers, 8 × 1": 6.0}},
        },
        "card": CARD,
        "runs": 3,
    }


def write(path: Path, tree: Any) -> Path:
    """A file with a result. -> `path`"""
    path.write_text(json.dumps(tree) + "\n")
    return path


Tree = dict[str, Any]
Change = Callable[[Tree], object]
