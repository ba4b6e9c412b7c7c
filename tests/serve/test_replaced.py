"""Another draft, target and plan under load, and the old ones again: nothing fails or changes."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import ray

from s2d_ray.config import AppConfig, DraftConfig
from s2d_ray.models.draft_files import base_of, draft_folder, ensure_draft, read_card
from s2d_ray.serve import deploy
from s2d_ray.serve.replicas import target_app
from tests.serve.service import PROMPTS, TARGETS, Ask, Service, ids_of

ASKS = [
    Ask(TARGETS[index % 2], prompt, "force", 0.8, seed=300 + index, max_tokens=16)
    for index, prompt in enumerate(PROMPTS[:4])
]
STAYS, CHANGES = TARGETS
EXITS = (1, 3)
"""Of the other draft: the quickstart's has 2 and 4."""
OTHER_PLAN = {"max_proposal": 2}


def ask_on(service: Service, ask: Ask, stop: Event) -> list[list[int]]:
    """The same request over and over; each must be answered."""
    texts = []
    while not stop.is_set():
        texts.append(ids_of(service.ask(ask)))
    return texts


def replicas_of(target: str) -> set[str]:
    """Names of a target's replicas; a new one has another name."""
    actors = ray.util.list_named_actors(all_namespaces=True)
    mark = f"SERVE_REPLICA::{target_app(target)}#"
    return {actor["name"] for actor in actors if actor["name"].startswith(mark)}


def replace(service: Service, config: AppConfig) -> None:
    """Deploy a config with another draft and target, and wait until they are there."""
    draft_pid, replicas = service.health()["draft"]["pid"], replicas_of(CHANGES)
    deploy.deploy(config)
    service.wait_until(
        lambda: service.health()["draft"].get("pid") not in (draft_pid, None), "another draft"
    )
    service.wait_until(
        lambda: len(new := replicas_of(CHANGES)) == 1 and not new & replicas, "another replica"
    )
    service.wait_for_draft()


def has_drafted(service: Service, exit_layers: tuple[int, ...]) -> bool:
    """Whether the draft that lives now has guessed with one of these sub-models."""
    counters = service.health()["draft"].get("counters", {})
    return any(counters.get(f"drafted_by_{layer}", 0) for layer in exit_layers)


def longest_proposal(service: Service) -> int:
    """By the plan of a request that says nothing of its own."""
    reply = service.ask(Ask(STAYS, "Hello", max_tokens=1), s2d={"trace": True})
    length: int = reply["s2d"]["plan"]["max_proposal"]
    return length


def test_a_draft_a_target_and_a_plan_are_replaced_and_rolled_back_under_load(
    service: Service,
) -> None:
    """The target whose settings stay runs on: its counters never go back. What is new works."""
    service.wait_for_draft()
    config, draft = service.config, service.config.draft
    assert draft is not None
    other_draft = DraftConfig(base=base_of(draft), exit_layers=EXITS, head_size=512)
    ensure_draft(other_draft)
    shipped = read_card(draft_folder(draft)).exit_layers
    assert not set(EXITS) & set(shipped)
    changed = config.targets[CHANGES].model_copy(update={"max_batch": 4})
    other = config.model_copy(
        update={
            "draft": other_draft,
            "targets": {**config.targets, CHANGES: changed},
            "plan": config.plan.model_copy(update=OTHER_PLAN),
        }
    )
    plain = [
        ids_of(reply)
        for reply in service.ask_all([dataclasses.replace(ask, mode="off") for ask in ASKS])
    ]
    forwards, kept = service.counters(STAYS)["forwards"], replicas_of(STAYS)
    stop, started_s = Event(), time.monotonic()
    with ThreadPoolExecutor(len(ASKS)) as pool:
        running = [pool.submit(ask_on, service, ask, stop) for ask in ASKS]
        try:
            replace(service, other)
            service.wait_until(lambda: has_drafted(service, EXITS), "guesses of the other draft")
            assert longest_proposal(service) == 2
            replace(service, config)
            service.wait_until(lambda: has_drafted(service, shipped), "its guesses")
        finally:
            stop.set()
            deploy.deploy(config)
    texts = [each.result() for each in running]
    print(f"{sum(map(len, texts))} requests in {time.monotonic() - started_s:.1f} s")
    assert [set(map(tuple, each)) for each in texts] == [{tuple(ids)} for ids in plain]
    assert service.counters(STAYS)["forwards"] > forwards
    assert replicas_of(STAYS) == kept
    assert longest_proposal(service) == config.plan.max_proposal
