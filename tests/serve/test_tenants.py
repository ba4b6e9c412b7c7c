"""Tenants on the running service: two routers and one ledger, which may be killed under load."""

from __future__ import annotations

import itertools
import json
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import ray

from s2d_ray.config import AppConfig
from s2d_ray.serve import deploy
from s2d_ray.serve.replicas import replicas_of
from s2d_ray.simulate.request import Arrival
from s2d_ray.tenants import TenantsFile, load_tenants, revoked, rotated, save_tenants, with_owner
from tests.serve.service import PATIENCE_S, PLACEMENT, TARGETS, Service
from tests.simulating import replica_counts
from tests.tiny import tiny_checkpoint

TARGET = TARGETS[0]
BUCKET = 1_200
RESERVED = 40
"""What one `Site.body` takes at admission, at least."""
BURST_TOKENS = 100


class Site:
    """The service with tenants: their keys, and the ledger's folder."""

    def __init__(self, config: AppConfig, tenants: Path) -> None:
        assert config.tenancy is not None
        self.config = config
        self.url = f"http://{config.http.host}:{config.http.port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        self.tenants = tenants
        self.state = Path(config.tenancy.state_dir)
        self.keys: dict[str, str] = {}
        save_tenants(tenants, TenantsFile())
        self.add("root", is_operator=True)
        self.add("metered", tokens_per_minute=BUCKET, max_running=64, max_waiting=256)
        self.add("once", requests_per_minute=1)
        for name in ("quiet", "flood", "steady"):
            self.add(name, max_running=64, max_waiting=64)

    def add(self, name: str, *, is_operator: bool = False, **fields: Any) -> None:
        tenants = with_owner(load_tenants(self.tenants), name, fields, is_operator=is_operator)
        tenants, self.keys[name] = rotated(tenants, name, datetime.now(UTC), timedelta(0))
        save_tenants(self.tenants, tenants)

    def header(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[name]}"}

    def ask(self, tenant: str, max_tokens: int = 4, **fields: Any) -> httpx.Response:
        body = {"model": TARGET, "prompt": "The sky", "max_tokens": max_tokens, "seed": 1}
        body |= {"s2d": {"mode": "off"}, "ignore_eos": True, **fields}
        return self.http.post("/v1/completions", json=body, headers=self.header(tenant))

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_S
        )

    def records(self, tenant: str) -> list[dict[str, Any]]:
        path = self.state / "usage.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [record for record in map(json.loads, lines) if record["tenant"] == tenant]

    def await_records(self, tenant: str, num: int) -> list[dict[str, Any]]:
        deadline_s = time.monotonic() + PATIENCE_S
        while len(records := self.records(tenant)) < num:
            assert time.monotonic() < deadline_s, f"{len(records)} of {num} records of {tenant}"
            time.sleep(0.1)
        return records

    def status(self, tenant: str) -> int:
        return self.http.get("/v1/models", headers=self.header(tenant)).status_code


@pytest.fixture(scope="module")
def site(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The shared service with tenants and two routers; at the end it is as it was."""
    folder = tmp_path_factory.mktemp("tenancy")
    tree = service.config.model_dump(mode="json", exclude_unset=True)
    tree["http"]["num_routers"] = 2
    tree["targets"]["sleeper"] = sleeper(folder)
    tree["tenancy"] = {"file": str(folder / "tenants.yaml"), "state_dir": str(folder / "state")}
    site = Site(AppConfig.model_validate(tree), folder / "tenants.yaml")
    deploy.deploy(site.config)
    wait_until_keys(site, asked=True)
    yield site
    site.http.close()
    deploy.deploy(service.config)
    wait_until_keys(site, asked=False)


def sleeper(folder: Path) -> dict[str, Any]:
    """A tiny target without a replica until it is asked, one text at a time in each."""
    return {
        "model": str(tiny_checkpoint(folder / "tiny")),
        "placement": PLACEMENT,
        "num_threads": 1,
        "max_batch": 1,
        "autoscaling": {
            "min_replicas": 0,
            "max_replicas": 3,
            "target_ongoing_requests": 4,
            "upscale_delay_s": 0,
            "downscale_delay_s": 1,
            "look_back_period_s": 2.5,
        },
    }


def wait_until_keys(site: Site, *, asked: bool) -> None:
    """Until both routers are the new ones: twenty answers in a row, since either may answer."""
    deadline_s = time.monotonic() + PATIENCE_S
    in_a_row = 0
    with httpx.Client(base_url=site.url, timeout=PATIENCE_S) as client:
        while in_a_row < 20:
            assert time.monotonic() < deadline_s
            try:
                is_so = (client.get("/v1/models").status_code == 401) == asked
            except httpx.TransportError:
                is_so = False
            in_a_row = in_a_row + 1 if is_so else 0
            time.sleep(0.05)


def kill_ledger() -> None:
    """As a crash of its process would; Serve starts another one."""
    (name,) = (
        found["name"]
        for found in ray.util.list_named_actors(all_namespaces=True)
        if found["name"].startswith("SERVE_REPLICA::ledger#")
    )
    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)


def test_the_openai_client_meets_keys_and_limits_as_openai_has_them(site: Site) -> None:
    ask: dict[str, Any] = {"model": TARGET, "messages": [{"role": "user", "content": "Hello"}]}
    with site.client(site.keys["once"]) as once:
        raw = once.chat.completions.with_raw_response.create(**ask, max_tokens=2)
        assert raw.parse().choices
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as limited:
            once.chat.completions.create(**ask, max_tokens=2)
    assert limited.value.code == "requests_per_minute"
    assert int(limited.value.response.headers["retry-after"]) > 1
    words = {"model": TARGET, "prompt": "The sky"}
    tokens = [
        site.http.post("/tokenize", json=words, headers=site.header(name))
        for name in ("quiet", "once")
    ]
    assert [answer.status_code for answer in tokens] == [200, 429]
    with site.client("none") as stranger, pytest.raises(openai.AuthenticationError) as unknown:
        stranger.models.list()
    assert unknown.value.code == "invalid_api_key"
    with site.client(site.keys["root"]) as root, pytest.raises(openai.PermissionDeniedError):
        root.chat.completions.create(**ask)
    with site.client(site.keys["quiet"]) as quiet:
        assert len(list(quiet.chat.completions.create(**ask, max_tokens=3, stream=True))) > 1
    told, text = site.await_records("quiet", 2)
    assert (told["status"], told["target"], told["reserved_tokens"]) == (200, "/tokenize", 1)
    assert (text["status"], text["completion_tokens"]) == (200, 3)
    assert site.http.get("/health").status_code == 200
    assert site.http.get("/metrics").status_code == 401


def test_64_clients_of_two_routers_never_take_more_than_the_bucket(site: Site) -> None:
    """Every answer is a text or a 429, and what was used is within the bucket and its refill."""
    start_s = time.monotonic()
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: site.ask("metered", max_tokens=RESERVED), range(96)))
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 429}
    records = site.await_records("metered", statuses.count(200))
    window_s = time.monotonic() - start_s
    used = sum(record["prompt_tokens"] + record["completion_tokens"] for record in records)
    assert used <= BUCKET * (1 + window_s / 60)
    usage = site.http.get("/v1/usage", headers=site.header("metered")).json()
    sums = usage["tenants"]["metered"][TARGET]
    assert sums["prompt_tokens"] + sums["completion_tokens"] == used


def test_a_killed_ledger_ends_no_text_and_counts_each_once(site: Site) -> None:
    """Running texts go on; waiting ones ask the next ledger, or hear after a while why not."""
    before = len(site.records("steady"))
    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(site.ask, "steady", 24, seed=seed) for seed in range(24)]
        wait_for(asked, 2)
        kill_ledger()
        answers = [future.result() for future in asked]
    written = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {answer.json()["error"]["code"] for answer in refused} <= {"ledger_away"}
    assert len(written) >= 2 + 8  # those that ran at least
    print(f"{len(refused)} of 24 requests found no ledger in time")
    records = site.await_records("steady", before + len(written))[before:]
    assert len({record["request_id"] for record in records}) == len(records) == len(written)
    assert site.ask("steady").status_code == 200


def wait_for(futures: list[Future[httpx.Response]], num: int) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while sum(future.done() for future in futures) < num:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_changed_file_under_load_fails_no_request_and_a_revoked_key_stops(site: Site) -> None:
    """By the file within five seconds, by the operator's route at once on both routers."""
    site.add("leaver")
    site.add("thrown-out")
    for name in ("leaver", "thrown-out"):
        deadline_s = time.monotonic() + PATIENCE_S
        while {site.status(name) for _ in range(8)} != {200}:
            assert time.monotonic() < deadline_s
    done = threading.Event()

    def ask_on() -> list[int]:
        statuses = []
        while not done.is_set():
            statuses.append(site.ask("steady").status_code)
        return statuses

    with ThreadPoolExecutor(4) as pool:
        load = [pool.submit(ask_on) for _ in range(4)]
        try:
            tenants = load_tenants(site.tenants)
            save_tenants(site.tenants, revoked(tenants, site.keys["leaver"].split("-")[1]))
            changed_s = time.monotonic()
            while {site.status("leaver") for _ in range(8)} != {401}:
                assert time.monotonic() < changed_s + PATIENCE_S
            took_s = time.monotonic() - changed_s
            path = f"/v1/operator/keys/{site.keys['thrown-out'].split('-')[1]}/revoke"
            told = site.http.post(path, headers=site.header("root"))
            at_once = {site.status("thrown-out") for _ in range(8)}
        finally:
            done.set()
        statuses = {status for asked in load for status in asked.result()}
    print(f"a key revoked in the file stopped after {took_s:.1f} s")
    assert statuses == {200}
    assert (told.status_code, told.json()["routers"]) == (200, 2)
    assert at_once == {401}


def test_a_flood_makes_itself_wait_and_not_another_tenant(site: Site) -> None:
    """The flood keeps 40 requests open; another tenant asks one at a time."""
    before = {name: len(site.records(name)) for name in ("flood", "quiet")}
    done = threading.Event()

    def flood(number: int) -> None:
        while not done.is_set():
            site.ask("flood", 8, seed=number)

    with ThreadPoolExecutor(40) as pool:
        for number in range(40):
            pool.submit(flood, number)
        site.await_records("flood", before["flood"] + 8)
        statuses = {site.ask("quiet", 8).status_code for _ in range(6)}
        done.set()
    assert statuses == {200}
    site.await_records("quiet", before["quiet"] + 6)
    quiet, flooding = (
        [record["queue_ms"] for record in site.records(name)[before[name] :]]
        for name in ("quiet", "flood")
    )
    assert statistics.median(quiet) < statistics.median(flooding)


def test_a_burst_wakes_a_target_to_three_replicas_that_then_go(site: Site) -> None:
    """One of twelve requests goes through and wakes it; what the ledger holds asks for the others.

    Serve alone sees one request, a quarter of what a replica should carry. Each of twelve clients
    asks again until the third replica runs. The simulator, given these arrivals, the mean step
    and the first start of this run, has the replicas come and go in the same order.
    """
    start_s = time.monotonic()
    seen: list[tuple[float, int]] = []
    arrivals: list[Arrival] = []

    def now_s() -> float:
        return time.monotonic() - start_s

    def running() -> int:
        num = replicas_of(["sleeper"])["sleeper"].num_running
        if not seen or seen[-1][1] != num:
            seen.append((round(now_s(), 1), num))
        return num

    def wait_for(*numbers: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while running() not in numbers:
            assert time.monotonic() < deadline_s, f"replicas seen: {seen}"
            time.sleep(0.05)

    assert running() == 0
    assert site.http.get("/health").json()["targets"]["sleeper"]["ready"]
    before = len(site.records("steady"))
    done = threading.Event()

    def ask_on() -> set[str]:
        """-> the refusals"""
        refusals = set()
        while not done.is_set():
            arrivals.append(Arrival(now_s(), "steady", "sleeper", 7, BURST_TOKENS, BURST_TOKENS))
            answer = site.ask("steady", BURST_TOKENS, model="sleeper")
            if answer.status_code != 200:
                refusals.add(answer.text)
        return refusals

    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask_on) for _ in range(12)]
        try:
            wait_for(1)
            wait_for(3)
        finally:
            done.set()
        assert not set[str]().union(*(future.result() for future in asked))
    wait_for(1)
    wait_for(0)
    records = site.await_records("steady", before + len(arrivals))[before:]
    written_ms = [record["total_ms"] - record["queue_ms"] for record in records]
    foretold = replica_counts(
        alone(site.config, "sleeper"),
        arrivals,
        step_s=statistics.median(written_ms) / BURST_TOKENS / 1_000,
        start_s=seen[1][0],
        until_s=now_s() + PATIENCE_S,
    )
    print(f"seconds and running replicas: {seen}; simulated: {foretold}")
    assert order_of(seen) == order_of(foretold) == [0, 1, 3, 1, 0]


def alone(config: AppConfig, target: str) -> AppConfig:
    """The config with one target, and no draft."""
    targets = {target: config.targets[target]}
    return config.model_copy(update={"targets": targets, "draft": None})


def order_of(seen: list[tuple[float, int]]) -> list[int]:
    """Numbers of replicas in turn, but for two, which is not seen if two come or go at once."""
    return [num for num, _ in itertools.groupby(num for _, num in seen if num != 2)]
