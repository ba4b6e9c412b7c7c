"""`make flood`: a tenant floods a running service, and another one waits: how much longer?

Router, ledger and target are the real ones, on a cluster of this machine. First the texts a second
that the target writes are measured; a fifth of them is a tenant's share. Then, twice, for the same
time: three tenants ask for three shares each and keep all slots full, `quiet` asks for half a
share, and `flood` for one share, then for twenty. Requests arrive at random times, whatever runs.
Waits are told in ms, and in texts that others were granted meanwhile, which the machine's speed at
that moment does not change.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from s2d_ray.config import AppConfig
from s2d_ray.tenants import TenantsFile, rotated, save_tenants, with_owner
from tests.flood import NUM_TENANTS, SLOTS, wait_p95
from tests.ports import free_port
from tests.serve.cluster import deployed
from tests.serve.service import QUICKSTART, TARGETS

SHARES = {"quiet": 0.5, "filler-1": 3.0, "filler-2": 3.0, "filler-3": 3.0}
TOKENS = 16
MAX_WAITING = 24
WARM_S = 10.0
CAPACITY_S = 20.0
CLIENTS = 24
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Site:
    """Where the service answers, its tenants' keys, and its usage log."""

    url: str
    keys: Mapping[str, str]
    usage: Path

    def records(self, prefix: str) -> list[dict[str, Any]]:
        """What was written down of the requests of one run."""
        records = map(json.loads, self.usage.read_text().splitlines())
        return [record for record in records if record["request_id"].startswith(prefix)]

    async def ask(self, client: httpx.AsyncClient, tenant: str, request_id: str) -> int:
        """One text; its status, 0 where the connection was lost."""
        headers = {"authorization": f"Bearer {self.keys[tenant]}", "x-request-id": request_id}
        body = {"model": TARGETS[0], "prompt": "The sky", "max_tokens": TOKENS, "seed": 1}
        body |= {"ignore_eos": True, "s2d": {"mode": "off"}}
        try:
            answer = await client.post("/v1/completions", json=body, headers=headers)
        except httpx.TransportError:
            return 0
        return answer.status_code

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=None)
        return httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S, limits=limits)


def site_config(folder: Path) -> tuple[AppConfig, Site]:
    """One target without a draft, two routers, five tenants of one weight."""
    file, state = folder / "tenants.yaml", folder / "state"
    tenants, keys = TenantsFile(), {}
    limits = {"max_running": 64, "max_waiting": MAX_WAITING}
    for name in (*SHARES, "flood"):
        tenants = with_owner(tenants, name, limits, is_operator=False)
        tenants, keys[name] = rotated(tenants, name, datetime.now(UTC), timedelta(0))
    save_tenants(file, tenants)
    tree = QUICKSTART.model_dump(mode="json", exclude_unset=True)
    del tree["draft"]
    target = {**tree["targets"][TARGETS[0]], "max_batch": SLOTS}
    tree["targets"] = {TARGETS[0]: target}
    tree["http"] |= {"num_routers": 2, "port": free_port()}
    tree["tenancy"] = {"file": str(file), "state_dir": str(state)}
    config = AppConfig.model_validate(tree)
    url = f"http://{config.http.host}:{config.http.port}"
    return config, Site(url, keys, state / "usage.jsonl")


async def texts_per_s(site: Site) -> float:
    """What the target writes while more than its slots are asked for."""
    count = 0

    async def ask_on(client: httpx.AsyncClient, number: int) -> None:
        nonlocal count
        while True:
            status = await site.ask(client, f"filler-{1 + number % 3}", "capacity")
            count += status == 200
            if status != 200:  # keys are not everywhere yet
                await asyncio.sleep(0.5)

    async with site.client() as client:
        asking = [asyncio.create_task(ask_on(client, number)) for number in range(CLIENTS)]
        await asyncio.sleep(WARM_S)
        before, start_s = count, time.monotonic()
        await asyncio.sleep(CAPACITY_S)
        rate = (count - before) / (time.monotonic() - start_s)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    return rate


async def flood_once(
    site: Site, share_per_s: float, flood_shares: float, seconds: float
) -> dict[str, Any]:
    """One run; the waits of `quiet` that arrived once the queues had filled."""
    draw = random.Random(1)
    run = f"flood-{flood_shares:g}-"
    asked: dict[str, list[asyncio.Task[int]]] = {name: [] for name in (*SHARES, "flood")}

    async def arrive(client: httpx.AsyncClient, tenant: str, rate: float) -> None:
        tasks = asked[tenant]
        start_s = time.monotonic()
        while (passed_s := time.monotonic() - start_s) < WARM_S + seconds:
            when = "warm" if passed_s < WARM_S else "then"
            name = f"{run}{tenant}-{when}-{len(tasks)}"
            tasks.append(asyncio.create_task(site.ask(client, tenant, name)))
            await asyncio.sleep(draw.expovariate(rate))

    shares = {**SHARES, "flood": flood_shares}
    async with site.client() as client:
        await asyncio.gather(
            *(arrive(client, name, share * share_per_s) for name, share in shares.items())
        )
        quiet = Counter(await asyncio.gather(*asked["quiet"]))
        flood = Counter(task.result() for task in asked["flood"] if task.done())
        left = [task for tasks in asked.values() for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    await asyncio.sleep(2.0)  # until the last ends were told and written down
    records = site.records(run)
    span_s = max(r["ended_s"] for r in records) - min(
        r["ended_s"] - r["total_ms"] / 1_000 for r in records
    )
    quiets = site.records(f"{run}quiet-then-")
    waits = [r["queue_ms"] for r in quiets]
    texts = [granted_meanwhile(r, records) for r in quiets]
    floods = [r["queue_ms"] for r in site.records(f"{run}flood-then-")]
    return {
        "flood_asked": len(asked["flood"]),
        "flood_refused": flood.total() - flood[200],
        "quiet_measured": len(waits),
        "quiet_refused": quiet.total() - quiet[200],
        "p50_ms": statistics.median(waits),
        "p95_ms": wait_p95(waits),
        "p50_texts": statistics.median(texts),
        "p95_texts": wait_p95(texts),
        "flood_p50_ms": statistics.median(floods),
        "texts_per_s": len(records) / span_s,
        "running": sum(r["total_ms"] - r["queue_ms"] for r in records) / 1_000 / span_s,
    }


def granted_meanwhile(waited: dict[str, Any], records: list[dict[str, Any]]) -> int:
    """Texts of other tenants that were granted while a request waited."""
    arrived_s = waited["ended_s"] - waited["total_ms"] / 1_000
    granted_s = arrived_s + waited["queue_ms"] / 1_000
    others = (r for r in records if r["tenant"] != waited["tenant"])
    times = (r["ended_s"] - (r["total_ms"] - r["queue_ms"]) / 1_000 for r in others)
    return sum(arrived_s < time_s < granted_s for time_s in times)


async def measure(site: Site, seconds: float) -> None:
    rate = await texts_per_s(site)
    share = rate / NUM_TENANTS
    print(f"{platform.processor() or platform.machine()}, {SLOTS} batch slots, two routers")
    print(
        f"{rate:.1f} texts of {TOKENS} tokens a second; a share is {share:.2f}; {seconds:g} s each"
    )
    print("flood  asked refused  quiet p50 ms   p95   p50 texts  p95  of  texts/s  running")
    figures: dict[str, Any] = {"texts_per_s": rate, "seconds": seconds}
    for shares in (1.0, 20.0):
        run = figures[f"{shares:g}x"] = await flood_once(site, share, shares, seconds)
        print(
            f"{shares:4.0f}x {run['flood_asked']:6} {run['flood_refused']:7} "
            f"{run['p50_ms']:13.0f} {run['p95_ms']:5.0f} {run['p50_texts']:11.0f} "
            f"{run['p95_texts']:4.0f} {run['quiet_measured']:3} {run['texts_per_s']:8.1f} "
            f"{run['running']:8.1f}",
            flush=True,
        )
    for unit in ("ms", "texts"):
        both = [figures[run][f"p95_{unit}"] for run in ("20x", "1x")]
        figures[f"p95_ratio_{unit}"] = both[0] / max(both[1], 1)
    print(json.dumps(figures))


def main() -> None:
    """Parse the command line, deploy, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each of the two runs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config, site = site_config(Path(folder))
        with deployed(config):
            asyncio.run(measure(site, options.seconds))


if __name__ == "__main__":
    main()
