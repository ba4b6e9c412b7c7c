"""How the serve tests talk to the running service."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai

from s2d_ray.config import AppConfig, load_config

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

QUICKSTART = load_config(Path(__file__).parents[2] / "deployments" / "quickstart.yaml")
TARGETS = tuple(QUICKSTART.targets)
PLACEMENT = "cpu"
PATIENCE_S = 120.0

PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about rain.",
    "Explain gravity to a child.",
    "List three fruits and their colours.",
    "Tell me a joke about a cat.",
    "How do I boil an egg?",
    "Write a function that adds two numbers.",
    "Describe the sea in one sentence.",
)


@dataclass(frozen=True)
class Ask:
    """One chat completion."""

    target: str
    prompt: str
    mode: str = "off"
    temperature: float = 0.0
    seed: int = 1
    max_tokens: int = 24

    def body(self, **more: Any) -> dict[str, Any]:
        return {
            "model": self.target,
            "messages": [{"role": "user", "content": self.prompt}],
            "temperature": self.temperature,
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "s2d": {"mode": self.mode, "max_proposal": 4, "trace": True},
            **more,
        }


class Service:
    """The address of a running service and what tests ask of it."""

    def __init__(self, config: AppConfig, cluster: Cluster) -> None:
        self.config = config
        self.cluster = cluster
        self.url = f"http://{config.http.host}:{config.http.port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        self.openai = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none")

    def close(self) -> None:
        self.http.close()
        self.openai.close()

    def ask(self, ask: Ask, **more: Any) -> dict[str, Any]:
        answer = self.http.post("/v1/chat/completions", json=ask.body(**more))
        assert answer.status_code == 200, answer.text
        reply: dict[str, Any] = answer.json()
        return reply

    def ask_all(self, asks: Sequence[Ask], **more: Any) -> list[dict[str, Any]]:
        """All at the same time; the replies in order."""
        with ThreadPoolExecutor(len(asks)) as pool:
            return list(pool.map(lambda ask: self.ask(ask, **more), asks))

    def health(self) -> dict[str, Any]:
        body: dict[str, Any] = self.http.get("/health").json()
        return body

    def counters(self, target: str) -> dict[str, int]:
        counters: dict[str, int] = self.health()["targets"][target]["counters"]
        return counters

    def wait_until(self, claim: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not claim():
            assert time.monotonic() < deadline_s, f"not in {PATIENCE_S} s: {what}"
            time.sleep(0.1)

    def wait_for_draft(self) -> None:
        """Until the draft lives and every target may ask it."""

        def connected() -> bool:
            health = self.health()
            circuits = [target["draft_circuit"] for target in health["targets"].values()]
            return bool(health["draft"].get("alive")) and set(circuits) == {"closed"}

        self.wait_until(connected, "a living draft that all targets ask")


def text_of(reply: dict[str, Any]) -> str:
    content: str = reply["choices"][0]["message"]["content"]
    return content


def ids_of(reply: dict[str, Any]) -> list[int]:
    return [token["token_id"] for token in reply["s2d"]["tokens"]]
