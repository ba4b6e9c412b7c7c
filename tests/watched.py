"""A service on tiny models to be watched, and clients that do all that its metrics tell of."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx

from s2d_ray.config import AppConfig
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.tenants import TenantsFile, rotated, save_tenants, with_owner
from tests.chaos import TARGETS, chaos_config
from tests.plan_files import plan_file

PATIENCE_S = 120.0
CLIENTS, CALM = 16, 6
"""Clients in all, and those that ask while all is well: too few for texts to be preempted."""

BEGINNINGS = 12
"""Prompts begin in so many ways: enough to be found in a cache, too many to be kept all."""

PROMPT_WORDS = 24
MAX_TOKENS = 160
NEVER_STOPPED = "small"
"""A tenant that asks on whatever it is told."""

TENANTS: Mapping[str, Mapping[str, Any]] = {
    "acme": {"max_running": 32, "max_waiting": 64},
    "beta": {"max_running": 2, "max_waiting": 64},
    NEVER_STOPPED: {"requests_per_minute": 1},
}


@dataclass(frozen=True)
class Site:
    """Where the service answers, and the keys of its tenants. root: file with an operator's."""

    config: AppConfig
    url: str
    keys: Mapping[str, str]
    root: Path


def watched_site(folder: Path) -> Site:
    """Two tiny targets, one of them twice, a draft, tenants, a plan file, and little memory.

    Batches are large and caches small, so prefixes are evicted and sequences preempted.
    """
    config = chaos_config(folder)
    tree = config.model_dump(mode="json", exclude_unset=True)
    tenants, keys = TenantsFile(), {}
    for name in ("root", *TENANTS):
        tenants = with_owner(
            tenants, name, dict(TENANTS.get(name, {})), is_operator=name not in TENANTS
        )
        tenants, keys[name] = rotated(tenants, name, datetime.now(UTC), timedelta(0))
    save_tenants(folder / "tenants.yaml", tenants)
    (folder / "root.key").write_text(keys["root"])
    (folder / "plans.json").write_text(json.dumps(_plans(tree)))
    tree["tenancy"] = {"file": str(folder / "tenants.yaml"), "state_dir": str(folder / "state")}
    tree["plans"] = str(folder / "plans.json")
    tree["control"] = {"share": 0.25}
    tree["http"] |= {"num_routers": 1}
    tree["draft"] |= {"kv_cache_mib": 1}
    for number, name in enumerate(TARGETS):
        tree["targets"][name] |= {"num_replicas": 2 - number, "max_batch": 16, "kv_cache_mib": 1}
    config = AppConfig.model_validate(tree)
    url = f"http://{config.http.host}:{config.http.port}"
    return Site(config, url, keys, folder / "root.key")


def _plans(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The plan file of the tests, for this config's draft, whose exits are 1 and 2."""
    text = json.dumps(plan_file()).replace('"2":', '"1":').replace('"4":', '"2":')
    plans: dict[str, Any] = json.loads(text.replace('"drafted_by": 2', '"drafted_by": 1'))
    draft = tree["draft"]["checkpoint"]
    weights = hash_of_weights(Path(draft))
    plans["draft"] = {"source": draft, "exit_layers": [1, 2], "weights": weights}
    small = plans["targets"].pop("small")
    # Of the loads that costs are told for, each has another key now.
    small["costs"] = plan_file()["targets"]["small"]["costs"]
    small["costs"]["draft_ms"] = dict(zip("12", small["costs"]["draft_ms"].values(), strict=True))
    for name in TARGETS:
        plans["targets"][name] = small | {"model": tree["targets"][name]["model"]}
    return plans


@dataclass
class Clients:
    """Clients that ask on until they are told to end, each in a thread.

    is_rough: some leave before the end, send nonsense, or are refused.
    """

    site: Site
    is_rough: bool = False
    statuses: dict[int, int] = field(default_factory=dict)
    _is_over: Event = field(default_factory=Event)

    @contextmanager
    def asking(self) -> Iterator[None]:
        threads = [Thread(target=self._ask_on, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in threads:
                thread.join()

    def _ask_on(self, number: int) -> None:
        draw = random.Random(number)
        with httpx.Client(base_url=self.site.url, timeout=PATIENCE_S) as http:
            while not self._is_over.is_set():
                if number >= CALM and not self.is_rough:
                    time.sleep(0.5)
                    continue
                try:
                    self._ask(http, draw)
                except httpx.HTTPError:
                    time.sleep(0.5)  # a router that was lost comes back

    def _ask(self, http: httpx.Client, draw: random.Random) -> None:
        tenant = draw.choice(["acme", "beta"])
        body = request(draw, MAX_TOKENS * (1 + self.is_rough))
        if self.is_rough and draw.random() < 0.3:
            tenant, body = self._roughly(draw, body)
        header = {"authorization": f"Bearer {self.site.keys[tenant]}"}
        leaves = self.is_rough and draw.random() < 0.1
        with http.stream("POST", "/v1/completions", json=body, headers=header) as answer:
            self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
            for _ in answer.iter_lines():
                if leaves:
                    return

    def _roughly(self, draw: random.Random, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        wrong = draw.choice([{}, {"max_tokens": -1}, {"s2d": {"mode": "force"}}])
        return NEVER_STOPPED if not wrong else "acme", body | wrong


def request(draw: random.Random, max_tokens: int) -> dict[str, Any]:
    """A streamed completion of a class the plan file knows; speculation is left to the service."""
    beginning = random.Random(draw.randrange(BEGINNINGS))
    words = [f"w{beginning.randrange(1000)}" for _ in range(PROMPT_WORDS)]
    return {
        "model": draw.choice(TARGETS),
        "prompt": " ".join([*words, str(draw.random())]),
        "max_tokens": draw.randint(max_tokens // 2, max_tokens),
        "temperature": draw.choice([0.0, 0.8]),
        "ignore_eos": True,
        "stream": True,
        "s2d": {"task": draw.choice(["chat", "code"])},
    }
