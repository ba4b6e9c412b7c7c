"""What edge and router cost: a target that answers at once beside a bare Serve echo.

Both are on one cluster, behind one proxy, and have one hop from the deployment that the proxy calls
to the one that answers. They take turns, so that what else runs on the machine meets both.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from ray import cloudpickle
from rich.console import Console
from rich.table import Table

from s2d_ray.bench.alternate import Advance, in_turn
from s2d_ray.bench.bar import stderr_bar
from s2d_ray.bench.checkout import commit
from s2d_ray.bench.figures import spread
from s2d_ray.bench.router_apps import FixedEngine
from s2d_ray.config import AppConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.core.host import cpu_model
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.messages import Delta, Event, GenerateRequest, TextPrompt
from s2d_ray.errors import RunError
from s2d_ray.serve import deploy, launcher, own_ray
from s2d_ray.serve.places import labels_of_all

TARGET = "fixed"
PATHS = {"router": "/v1/completions", "echo": "/echo/"}
CONCURRENCY = (1, 8, 32)
STREAMED_TOKENS = 16
MAX_OPEN = 256
WARM = 20
"""Requests of each kind that are not counted."""
REPEATS = 200
ONE_TOKEN = GenerateRequest("r", TextPrompt(""), SamplingParams(1, max_tokens=1), Plan())


@dataclass(frozen=True)
class Case:
    """One kind of request. tokens: of the answer, each in a chunk of its own if streamed."""

    name: str
    tokens: int
    stream: bool

    def body(self) -> dict[str, Any]:
        """The same for both."""
        return {
            "model": TARGET,
            "prompt": "The sky",
            "max_tokens": self.tokens,
            "seed": 1,
            "stream": self.stream,
        }


CASES = (Case("whole", 1, False), Case("streamed", STREAMED_TOKENS, True))


@dataclass(frozen=True)
class Sample:
    """Requests of one kind that were sent by so many clients, each asking again at once."""

    case: str
    method: str
    clients: int
    round: int
    seconds: float
    latencies_s: Sequence[float]

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return len(self.latencies_s) / self.seconds


def run(rounds: int, requests: int, out: Path, temp_dir: Path) -> int:
    """Deploy, measure, print card, table and one line of JSON. -> exit code."""
    card = {
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores, shared with the clients",
        "commit": commit(),
        "rounds": rounds,
        "requests": requests,
    }
    for name, value in card.items():
        print(f"{name:<10} {value}", flush=True)
    with service(temp_dir) as url, stderr_bar() as bar:
        cells = len(CASES) * len(CONCURRENCY) * len(PATHS) * rounds
        samples = asyncio.run(measure(url, rounds, requests, bar.open("samples", cells)))
    found = result(samples)
    Console().print(table(found))
    delta = delta_cost()
    print(
        "a delta between two processes: {bytes} bytes, {us} µs to pickle and back".format(**delta)
    )
    line = json.dumps(found | {"delta": delta, "card": card})
    out.mkdir(parents=True, exist_ok=True)
    (out / f"router-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(line + "\n")
    print(line)
    return 0


@contextmanager
def service(temp_dir: Path) -> Iterator[str]:
    """A cluster with router, a target without a model, and an echo. -> its URL."""
    port = free_port()
    target = {"model": "none", "max_batch": MAX_OPEN}
    tree = {"http": {"port": port, "max_open_requests": MAX_OPEN}, "targets": {TARGET: target}}
    config = AppConfig.model_validate(tree)
    document = deploy.render(config, cluster_has_gpus=False)
    by_name = {app["name"]: app for app in document["applications"]}
    by_name[f"target-{TARGET}"]["import_path"] = f"{__package__}.router_apps:build_target"
    document["applications"].append(
        {
            "name": "echo",
            "route_prefix": "/echo",
            "import_path": f"{__package__}.router_apps:build_echo",
            "args": {"max_ongoing_requests": MAX_OPEN},
        }
    )
    try:
        own_ray.start_ray(temp_dir, labels_of_all(config))
        deploy.deploy_document(document)
        deploy.wait_until_ready(config, lambda line: None)
        yield f"http://127.0.0.1:{port}"
    finally:
        launcher.stop_ray()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def measure(url: str, rounds: int, requests: int, advance: Advance) -> list[Sample]:
    """All cases and numbers of clients, `rounds` times; rounds begin with another method."""
    samples = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60.0, limits=limits) as client:
        for case in CASES:
            for path in PATHS.values():
                await ask_all(client, path, case, max(CONCURRENCY), WARM)
        for number in range(rounds):
            for case in CASES:
                for clients in CONCURRENCY:
                    for method in in_turn(PATHS, number):
                        started_s = time.perf_counter()
                        took = await ask_all(client, PATHS[method], case, clients, requests)
                        seconds = time.perf_counter() - started_s
                        samples.append(Sample(case.name, method, clients, number, seconds, took))
                        advance(f"{case.name}, {clients} clients, {method}")
    return samples


async def ask_all(
    client: httpx.AsyncClient, path: str, case: Case, clients: int, requests: int
) -> list[float]:
    """Send so many requests from so many clients; -> seconds of each. Raises RunError."""
    took: list[float] = []
    left = iter(range(requests))

    async def ask_on() -> None:
        for _ in left:
            started_s = time.perf_counter()
            answer = await client.post(path, json=case.body())
            if answer.status_code != 200:
                raise RunError(f"{path} answered {answer.status_code}: {answer.text[:200]}")
            took.append(time.perf_counter() - started_s)

    await asyncio.gather(*(ask_on() for _ in range(clients)))
    return took


def result(samples: Sequence[Sample]) -> dict[str, Any]:
    """By case and number of clients: requests a second, latencies, and router over echo."""
    found: dict[str, Any] = {}
    for case in dict.fromkeys(sample.case for sample in samples):
        for clients in dict.fromkeys(sample.clients for sample in samples):
            of = {
                method: [
                    each
                    for each in samples
                    if (each.case, each.clients, each.method) == (case, clients, method)
                ]
                for method in PATHS
            }
            pairs = zip(of["router"], of["echo"], strict=True)
            ratios = [router.per_s / echo.per_s for router, echo in pairs]
            cell: dict[str, Any] = {name: _method(of[name]) for name in PATHS}
            cell["ratio"] = [round(each, 3) for each in spread(ratios)]
            found.setdefault(case, {})[str(clients)] = cell
    return found


def delta_cost() -> dict[str, float]:
    """What Ray's pickler makes of the delta of one token: bytes, and µs of processor time."""
    deltas: list[Event] = []
    FixedEngine().prepare(ONE_TOKEN)(deltas.append)
    delta = next(event for event in deltas if isinstance(event, Delta))
    times_s = []
    for _ in range(REPEATS):
        started_s = time.process_time()
        for _ in range(REPEATS):
            pickled = cloudpickle.dumps(delta)
            cloudpickle.loads(pickled)
        times_s.append((time.process_time() - started_s) / REPEATS)
    return {"bytes": len(pickled), "us": round(1e6 * min(times_s), 1)}


def _method(samples: Sequence[Sample]) -> dict[str, float]:
    times = sorted(time_s for sample in samples for time_s in sample.latencies_s)
    return {
        "requests_per_s": round(median(sample.per_s for sample in samples), 1),
        "p50_ms": round(1e3 * times[len(times) // 2], 2),
        "p95_ms": round(1e3 * times[min(len(times) - 1, len(times) * 95 // 100)], 2),
    }


def table(found: Mapping[str, Any]) -> Table:
    """A row for each case and number of clients."""
    shown = Table("answer", "clients", "", "requests/s", "p50, ms", "p95, ms", "router / echo")
    for case, cells in found.items():
        for clients, cell in cells.items():
            for method in PATHS:
                figures = [f"{value:g}" for value in cell[method].values()]
                middle, low, high = cell["ratio"]
                ratio = f"{middle:.2f} ({low:.2f}–{high:.2f})" if method == "router" else ""
                shown.add_row(case, clients, method, *figures, ratio)
    return shown
