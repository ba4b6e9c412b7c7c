"""A target replica may die under open streams: each goes on elsewhere, with the same text."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray import serve

from s2d_ray.serve import deploy
from s2d_ray.serve.replicas import target_app
from tests.serve.service import PROMPTS, TARGETS, Ask, Service

TARGET = TARGETS[0]
NUM_TOKENS = 32
ASKS = [
    Ask(TARGET, prompt, "auto", temperature, seed=300 + i, max_tokens=NUM_TOKENS)
    for i, prompt in enumerate(PROMPTS[:3])
    for temperature in (0.0, 0.7)
]


class Streams:
    """All asks as streams at the same time."""

    def __init__(self, service: Service, asks: Sequence[Ask]) -> None:
        self._service = service
        self._begun = [threading.Event() for _ in asks]
        self._pool = ThreadPoolExecutor(len(asks))
        self._running = [
            self._pool.submit(self._listen, ask, begun)
            for ask, begun in zip(asks, self._begun, strict=True)
        ]

    def all_begun(self) -> bool:
        return all(begun.is_set() for begun in self._begun)

    def texts(self) -> list[str]:
        with self._pool:
            return [stream.result() for stream in self._running]

    def _listen(self, ask: Ask, begun: threading.Event) -> str:
        """The text of one whole stream, which is long enough to be cut."""
        chunks = self._service.openai.chat.completions.create(
            model=ask.target,
            messages=[{"role": "user", "content": ask.prompt}],
            temperature=ask.temperature,
            seed=ask.seed,
            max_tokens=ask.max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True, "s2d": {"mode": ask.mode}},
        )
        text, reasons, num_tokens = "", [], 0
        for chunk in chunks:
            if chunk.usage is not None:
                num_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasons += [choice.finish_reason] if choice.finish_reason else []
            if text:
                begun.set()
        assert (reasons, num_tokens) == (["length"], NUM_TOKENS)
        return text


def replicas() -> list[dict[str, str]]:
    """Name and namespace of the actors of the target's replicas."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    mark = f"SERVE_REPLICA::{target_app(TARGET)}#"
    return [each for each in actors if each["name"].startswith(mark)]


def kill_the_busier(two: Sequence[Any]) -> None:
    """The one that writes more of the streams; Serve may have sent all of them to one."""
    numbers = ray.get([each.get_num_ongoing_requests.remote() for each in two])
    ray.kill(two[numbers.index(max(numbers))])


def num_running() -> int:
    states = serve.status().applications[target_app(TARGET)].deployments["target"].replica_states
    return sum(number for state, number in states.items() if state == "RUNNING")


def test_streams_of_a_killed_target_replica_go_on_with_the_same_text(service: Service) -> None:
    """One of two replicas is killed under six streams, greedy and drawn."""
    target = service.config.targets[TARGET].model_copy(update={"num_replicas": 2})
    two = {**service.config.targets, TARGET: target}
    deploy.deploy(service.config.model_copy(update={"targets": two}))
    try:
        undisturbed = Streams(service, ASKS).texts()
        service.wait_until(lambda: num_running() == 2, "a second replica")
        both = [ray.get_actor(**each) for each in replicas()]
        streams = Streams(service, ASKS)
        service.wait_until(streams.all_begun, "six running streams")
        kill_the_busier(both)
        assert streams.texts() == undisturbed
        service.wait_until(lambda: service.counters(TARGET).get("failovers", 0) > 0, "a failover")
    finally:
        deploy.deploy(service.config)
        service.wait_until(lambda: num_running() == 1 and len(replicas()) == 1, "one replica again")
