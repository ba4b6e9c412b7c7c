"""`make load`: open-loop load on the quickstart on this machine, or on a service that runs.

Requests arrive at random times, whatever has been answered. For each rate: goodput, requests a
second, time to the first token and per token behind it, and errors by kind. The last line is one
JSON object, also written below --out. A key is taken from S2D_API_KEY.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from s2d_ray.bench.checkout import commit
from s2d_ray.core.host import cpu_model
from s2d_ray.errors import S2DError
from s2d_ray.models.sources import resolve
from s2d_ray.models_cli import QUICKSTART as SOURCE
from tests.loading import PERCENTILES, PINS, Load, offer
from tests.ports import free_port
from tests.serve.cluster import deployed
from tests.serve.service import QUICKSTART, Service

KEY = "S2D_API_KEY"


@contextlib.contextmanager
def quickstart() -> Iterator[str]:
    """The URL of the quickstart on a cluster of its own, its draft alive."""
    port = {"port": free_port()}
    config = QUICKSTART.model_copy(update={"http": QUICKSTART.http.model_copy(update=port)})
    with deployed(config) as cluster, contextlib.closing(Service(config, cluster)) as service:
        service.wait_for_draft()
        yield service.url


def first_model(url: str, key: str | None) -> str:
    """The first model that the service names to whoever has this key."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    answer = httpx.get(f"{url}/v1/models", headers=headers).raise_for_status()
    name: str = answer.json()["data"][0]["id"]
    return name


def shown(runs: list[dict[str, Any]]) -> Table:
    """A row for each rate; milliseconds as p50 / p95 / p99."""
    table = Table(
        "offered/s", "requests", "answered/s", "tokens/s", "TTFT, ms", "TPOT, ms", "errors"
    )
    for run in runs:
        times = [
            " / ".join(f"{run[key][name]:,.0f}" for name in PERCENTILES)
            for key in ("ttft_ms", "tpot_ms")
        ]
        errors = ", ".join(f"{count} × {kind}" for kind, count in run["errors"].items())
        table.add_row(
            f"{run['offered_per_s']:g}",
            str(run["requests"]),
            f"{run['requests_per_s']:.2f}",
            f"{run['goodput_tokens_per_s']:.1f}",
            *times,
            errors or "none",
        )
    return table


def measure(url: str, key: str | None, options: argparse.Namespace) -> None:
    """Offer each rate in turn, and report."""
    model = options.model or first_model(url, key)
    loads = [
        Load(
            model,
            rate,
            60 * options.minutes,
            resolve(SOURCE),
            options.prompt_tokens,
            options.output_tokens,
            options.seed,
        )
        for rate in options.rate
    ]
    pins = dict(line.split("==") for line in PINS.read_text().splitlines())
    card = {
        "cpu": f"{cpu_model()}, {os.cpu_count()} cores",
        "commit": commit(),
        "service": options.url or "the quickstart, on the same machine as the load",
        "model": model,
        "generator": f"AIPerf {pins['aiperf']}, Poisson arrivals",
        "minutes": options.minutes,
        "prompt_tokens": options.prompt_tokens,
        "output_tokens": options.output_tokens,
        "seed": options.seed,
    }
    console = Console()
    for name, value in card.items():
        console.print(f"{name:14} {value}", markup=False, highlight=False, soft_wrap=True)
    runs = []
    for load in loads:
        console.print(f"{load.per_s:g} requests a second for {options.minutes:g} minutes")
        with tempfile.TemporaryDirectory() as folder:
            runs.append({"offered_per_s": load.per_s, **offer(url, load, Path(folder), key)})
        console.print(shown(runs[-1:]))
    if len(runs) > 1:
        console.print(shown(runs))
    line = json.dumps({"card": card, "runs": runs})
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"load-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(line + "\n")
    console.print(f"written: {file}", markup=False, highlight=False)
    print(line)


def main() -> None:
    """Parse the command line, start what is to be measured, measure."""
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--url", help="a service that runs; by default the quickstart is started")
    parser.add_argument("--model", help="by default the first one that the service names")
    parser.add_argument(
        "--rate", type=float, nargs="+", default=[1.0], help="requests a second; several in turn"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of each rate")
    parser.add_argument("--prompt-tokens", type=int, default=100, help="mean of the prompts")
    parser.add_argument("--output-tokens", type=int, default=50, help="mean of the answers")
    parser.add_argument("--seed", type=int, default=1, help="of prompts, lengths and arrivals")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the result")
    options = parser.parse_args()
    place = contextlib.nullcontext(options.url) if options.url else quickstart()
    try:
        with place as url:
            measure(url.rstrip("/"), os.environ.get(KEY), options)
    except (S2DError, httpx.HTTPError) as error:
        raise SystemExit(f"load: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("load: interrupted") from None


if __name__ == "__main__":
    main()
