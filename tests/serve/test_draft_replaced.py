"""Another draft under load, and the old one again: no request fails and no text changes."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from s2d_ray.config import DraftConfig
from s2d_ray.models.draft_files import ensure_draft
from s2d_ray.serve import deploy
from tests.serve.service import PROMPTS, TARGETS, Ask, Service, ids_of

ASKS = [
    Ask(TARGETS[index % 2], prompt, "force", 0.8, seed=300 + index, max_tokens=16)
    for index, prompt in enumerate(PROMPTS[:4])
]
EXITS = (1, 2, 3)
"""Of the other draft: the quickstart's has no such small sub-models."""


def ask_on(service: Service, ask: Ask, stop: Event) -> list[list[int]]:
    """The same request over and over; each must be answered."""
    texts = []
    while not stop.is_set():
        texts.append(ids_of(service.ask(ask)))
    return texts


def replace_draft(service: Service, draft: DraftConfig) -> None:
    """Deploy the config with another draft, and wait until all targets may ask it."""
    before = service.health()["draft"]["pid"]
    deploy.deploy(service.config.model_copy(update={"draft": draft}))
    service.wait_until(
        lambda: service.health()["draft"].get("pid") not in (before, None), "another draft"
    )
    service.wait_for_draft()


def has_drafted(service: Service, exit_layers: tuple[int, ...]) -> bool:
    """Whether the draft that lives now has guessed with one of these sub-models."""
    counters = service.health()["draft"].get("counters", {})
    return any(counters.get(f"drafted_by_{layer}", 0) for layer in exit_layers)


def test_a_draft_is_replaced_and_rolled_back_under_load(service: Service) -> None:
    """The targets run on: their counters never go back. Afterwards the new draft does draft."""
    service.wait_for_draft()
    draft = service.config.draft
    assert draft is not None
    other = DraftConfig(base=draft.base, exit_layers=EXITS, head_size=512)
    ensure_draft(other)
    plain = [
        ids_of(reply)
        for reply in service.ask_all([dataclasses.replace(ask, mode="off") for ask in ASKS])
    ]
    forwards = service.counters(TARGETS[0])["forwards"]
    stop, started_s = Event(), time.monotonic()
    with ThreadPoolExecutor(len(ASKS)) as pool:
        running = [pool.submit(ask_on, service, ask, stop) for ask in ASKS]
        try:
            replace_draft(service, other)
            service.wait_until(lambda: has_drafted(service, EXITS), "guesses of the other draft")
            replace_draft(service, draft)
            service.wait_until(lambda: has_drafted(service, draft.exit_layers), "its guesses")
        finally:
            stop.set()
            deploy.deploy(service.config)
    texts = [each.result() for each in running]
    print(f"{sum(map(len, texts))} requests in {time.monotonic() - started_s:.1f} s")
    assert [set(map(tuple, each)) for each in texts] == [{tuple(ids)} for ids in plain]
    assert service.counters(TARGETS[0])["forwards"] > forwards
