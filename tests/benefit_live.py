"""`make benefit`: does the control group tell the truth? On a target of the quickstart, for real.

The same greedy requests again and again, in blocks by turns: `auto`, in which the control group
measures, and `off`. Texts are equal, so the seconds of a block are its speed. What the control
group says of speculation stands beside what blocks of `off` took over blocks of `auto`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import transformers

from s2d_ray.bench.card import host_card
from s2d_ray.config import AppConfig
from s2d_ray.tuning.prompts import built_in
from tests.ports import free_port
from tests.serve.cluster import deployed
from tests.serve.service import PATIENCE_S, QUICKSTART, TARGETS

MODES = ("auto", "off")

TEXTS_OF_A_CLIENT = 4
"""In a block, at least. At its end clients have no more to ask: the more texts, the less of it."""


@dataclass(frozen=True)
class Traffic:
    """What is asked in each block, by so many clients, for texts of so many tokens: all prompts,
    and again from the first until there is enough for each client."""

    url: str
    target: str
    prompts: Sequence[str]
    tokens: int
    clients: int

    def block(self, mode: str) -> tuple[float, list[str]]:
        """-> seconds, and the texts"""
        with (
            httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client,
            ThreadPoolExecutor(self.clients) as pool,
        ):

            def ask(prompt: str) -> str:
                body = {
                    "model": self.target,
                    "messages": [{"role": "user", "content": prompt}],
                    "max_tokens": self.tokens,
                    "ignore_eos": True,
                    "temperature": 0,
                    "seed": 1,
                    "s2d": {"mode": mode},
                }
                answer = client.post("/v1/chat/completions", json=body).raise_for_status()
                text: str = answer.json()["choices"][0]["message"]["content"]
                return text

            count = max(len(self.prompts), TEXTS_OF_A_CLIENT * self.clients)
            start_s = time.perf_counter()
            texts = list(pool.map(ask, itertools.islice(itertools.cycle(self.prompts), count)))
            return time.perf_counter() - start_s, texts


def measured(traffic: Traffic, rounds: int) -> dict[str, Any]:
    """Blocks by turns, behind one of each that only warms; the control group's by load, as
    /health has it: a text whose prompt is computed does not count as one that decodes. Raises
    SystemExit if a text differs.
    """
    took: dict[str, list[float]] = {mode: [] for mode in MODES}
    expected = traffic.block("off")[1]
    for number in range(rounds + 1):
        for mode in MODES[:: 1 if number % 2 else -1]:
            seconds, texts = traffic.block(mode)
            if texts != expected:
                raise SystemExit(f"a text under {mode} is another one than under off")
            if number:
                took[mode].append(seconds)
    found = {"auto": ratio(took["off"], took["auto"])}
    told = httpx.get(f"{traffic.url}/health", timeout=PATIENCE_S).json()
    by_load = told["targets"][traffic.target]["control"]["benefit"]
    return {"texts_at_once": traffic.clients, **found, "control_group": by_load}


def ratio(off: Sequence[float], on: Sequence[float]) -> dict[str, float]:
    """How many times as quick as without: the median over turns, the lowest and the highest."""
    times = [a / b for a, b in zip(off, on, strict=True)]
    return {"ratio": statistics.median(times), "low": min(times), "high": max(times)}


def main() -> None:
    """Parse the command line, deploy, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="turns of both kinds of block")
    parser.add_argument("--tokens", type=int, default=48, help="of each of the texts")
    parser.add_argument("--share", type=float, default=0.05, help="the control group's share")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4], help="texts at once")
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0])
    parser.add_argument("--plans", type=Path, help="a plan file of `s2d calibrate`, for `auto`")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    tree = QUICKSTART.model_dump(mode="json", exclude_unset=True)
    target = tree["targets"][options.target]
    tree["targets"] = {options.target: {**target, "max_batch": max(8, *options.clients)}}
    if options.plans:
        tree["plans"] = str(options.plans.resolve())
    tree["http"]["port"] = free_port()
    tree["control"] = {"share": options.share}
    config = AppConfig.model_validate(tree)
    url = f"http://{config.http.host}:{config.http.port}"
    prompts = [asked.text for half in (0, 1) for asked in built_in(half)][:8]
    card = host_card(config)
    for name, value in card.items():
        print(f"{name}: {value}")
    found = []
    with deployed(config):
        for clients in options.clients:
            traffic = Traffic(url, options.target, prompts, options.tokens, clients)
            found.append(measured(traffic, options.rounds))
            print(json.dumps(found[-1]), flush=True)
    print(json.dumps({**card, "rounds": options.rounds, "share": options.share, "loads": found}))


if __name__ == "__main__":
    main()
