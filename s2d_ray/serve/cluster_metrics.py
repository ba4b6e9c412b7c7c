"""The metrics of a whole Ray cluster as one text in Prometheus' form."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import httpx
import ray

FETCH_TIMEOUT_S = 2.0


async def cluster_metrics() -> str:
    """What the exporter of each living node tells, merged; a comment counts those that do not."""
    nodes = await asyncio.to_thread(ray.nodes)
    urls = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node["Alive"]
    ]
    # A proxy named in the environment cannot reach the nodes.
    async with httpx.AsyncClient(timeout=FETCH_TIMEOUT_S, trust_env=False) as client:
        return await merged_metrics(client, urls)


async def merged_metrics(client: httpx.AsyncClient, urls: Iterable[str]) -> str:
    """The texts at `urls`, merged."""
    texts = await asyncio.gather(*(_fetch(client, url) for url in urls))
    told = [text for text in texts if text is not None]
    silent = len(texts) - len(told)
    return merge(told) + f"# {len(told)} of {len(texts)} nodes answered, {silent} did not\n"


async def _fetch(client: httpx.AsyncClient, url: str) -> str | None:
    try:
        response = await client.get(url)
        return response.raise_for_status().text
    except httpx.HTTPError:
        return None


@dataclass
class _Family:
    """One metric: its HELP and TYPE lines, and all its samples."""

    head: dict[str, str] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)


def merge(texts: Iterable[str]) -> str:
    """Texts in Prometheus' form as one, in which each family stands once and together."""
    families: dict[str, _Family] = {}
    for text in texts:
        name = ""
        for line in text.splitlines():
            words = line.split(" ", 3)
            if words[0] == "#" and len(words) > 2 and words[1] in ("HELP", "TYPE"):
                name = words[2]
                families.setdefault(name, _Family()).head.setdefault(words[1], line)
            elif line.strip() and words[0] != "#":
                families.setdefault(name, _Family()).samples.append(line)
    lines = [
        line for family in families.values() for line in (*family.head.values(), *family.samples)
    ]
    return "".join(f"{line}\n" for line in lines)
