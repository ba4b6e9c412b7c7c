"""A tenant floods: what does another one notice? In engine steps, with the real ledger.

`python -m tests.flood` prints the waits of a tenant that asks for half its share, while another
asks for once and for 20 times its own, and the same in a plain first-come-first-served queue. Three
more tenants keep all slots full in every run.
"""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import dataclass

from s2d_ray.policy.limits import Limits
from tests.queueing import VirtualTarget

SLOTS = 8
NUM_STEPS = 6_000
MEAN_STEPS = 40
PROMPT_TOKENS = 60
SHARES = {"quiet": 0.5, "filler-1": 1.5, "filler-2": 1.5, "filler-3": 1.5}
NUM_TENANTS = 5
WARM_STEPS = 500


@dataclass(frozen=True)
class Outcome:
    """waits: steps of the quiet tenant's requests. full: steps in which all slots were taken."""

    waits: list[int]
    full: int
    num_refused: int


def run_flood(flood_share: float, *, is_fair: bool = True, seed: int = 1) -> Outcome:
    """One run; without fairness all requests belong to one tenant's line, in order of arrival."""
    draw = random.Random(seed)
    shares = {**SHARES, "flood": flood_share}
    limits = Limits(max_running=10**6, max_waiting=500 if is_fair else 10**6)
    target = VirtualTarget(dict.fromkeys(shares if is_fair else ["all"], limits), SLOTS)
    share_per_step = SLOTS / MEAN_STEPS / NUM_TENANTS
    quiet: list[str] = []
    for step in range(NUM_STEPS):
        for tenant, share in shares.items():
            rate = share * share_per_step
            for _ in range(int(rate) + (draw.random() < rate % 1)):
                num_steps = draw.randint(MEAN_STEPS // 2, 3 * MEAN_STEPS // 2)
                tokens = PROMPT_TOKENS + num_steps
                name = target.ask(tenant if is_fair else "all", tokens, num_steps)
                if tenant == "quiet" and step >= WARM_STEPS:
                    quiet.append(name)
        target.run()
    line = target.line
    waits = [line.started_step.get(n, NUM_STEPS) - line.arrived_step[n] for n in quiet]
    return Outcome(waits, target.num_full_steps, len(line.refused))


def wait_p95(waits: list[int]) -> float:
    return statistics.quantiles(waits, n=20)[-1]


def main() -> None:
    print(f"{SLOTS} slots, {NUM_STEPS} steps, {NUM_TENANTS} tenants of one weight")
    print("queue   flood  p50 wait  p95 wait  slots full")
    figures = {}
    for is_fair in (True, False):
        for share in (1.0, 20.0):
            outcome = run_flood(share, is_fair=is_fair)
            kind = "fair" if is_fair else "fifo"
            p50, p95 = statistics.median(outcome.waits), wait_p95(outcome.waits)
            figures[f"{kind}_{share:g}"] = {"p50_steps": p50, "p95_steps": p95}
            full = outcome.full / NUM_STEPS
            print(f"{kind:6} {share:5.0f}x {p50:9.0f} {p95:9.0f} {full:10.1%}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
