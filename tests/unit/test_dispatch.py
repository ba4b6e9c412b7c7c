"""Requests that leave the choice of target and plan to the service, at the HTTP edge in process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import ChatPrompt, TextPrompt, TokenPrompt
from s2d_ray.policy.routing import PlanRule, Rules
from s2d_ray.serve.dispatch import conversation, num_tokens
from tests.fakes_http import (
    HANG,
    PLAN,
    SCRIPT,
    FakeBackend,
    app_over,
    call,
    chat_body,
    events,
    post,
    serving,
    text_body,
)
from tests.ledger_site import site, until

CHAT = "/v1/chat/completions"
CANARY = {"prod": {"tiny": 9.0, "tiny-int8": 1.0}}
COSTS = {"tiny": 9.0, "tiny-int8": 1.0}


def backend(rules: Rules[Plan] | None = None) -> FakeBackend:
    """Targets tiny, which is dear, and tiny-int8, with `auto`."""
    return FakeBackend(rules=rules or Rules(), costs=COSTS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "target", "reason"),
    [
        ("tiny-int8", "tiny-int8", "named"),
        ("auto", "tiny", "auto: 1 as good, expected 3.2 s"),
        ("auto:cheap", "tiny-int8", "auto:cheap: 1 as good, expected 3.2 s"),
        ("prod", "tiny", "split prod"),
    ],
)
def test_header_and_model_of_the_reply_say_where_a_request_went(
    model: str, target: str, reason: str, stream: bool
) -> None:
    fake = backend(Rules(splits={"prod": {"tiny": 1.0, "tiny-int8": 0.0}}))
    answer = post(app_over(fake), model=model, stream=stream)
    assert answer.headers["x-s2d-route"] == f"{target}; {reason}"
    told = events(answer)[-1] if stream else answer.json()
    assert told["model"] == target
    assert [name for name, _ in fake.requests] == [target]


def test_completions_and_choices_are_sent_to_one_target() -> None:
    fake = backend(Rules(splits=CANARY))
    body = text_body(model="prod", prompt=["one", "two"], n=2)
    answer = call(app_over(fake), "POST", "/v1/completions", json=body)
    assert answer.status_code == 200
    assert len({name for name, _ in fake.requests}) == 1
    assert len(fake.requests) == 4


def test_the_plan_is_the_tables_and_explicit_fields_win() -> None:
    rows = [
        PlanRule(Plan((), 0.0, 9), target="tiny", task="code"),
        PlanRule(Plan((), 0.5, 2), target="tiny"),
    ]
    fake = backend(Rules(plans=rows))
    app = app_over(fake)
    for s2d, model, plan, row in [
        ({}, "auto", rows[1].plan, "; plan 2"),
        ({"task": "code"}, "auto", rows[0].plan, "; plan 1"),
        ({"task": "poetry"}, "tiny", rows[1].plan, "; plan 2"),
        ({"task": "code"}, "tiny-int8", PLAN, "named"),
        ({"max_proposal": 7}, "auto", Plan((), 0.5, 7), "; plan 2"),
        ({"exit_thresholds": [0.3], "stop_threshold": 0.0}, "auto", Plan((0.3,), 0, 2), "plan 2"),
        ({"mode": "off", "tree_width": 3}, "auto", Plan((), 0.5, 2, 3), "; plan 2"),
    ]:
        answer = post(app, model=model, s2d=s2d)
        assert fake.requests[-1][1].plan == plan
        assert fake.requests[-1][1].mode == s2d.get("mode", "auto")
        assert answer.headers["x-s2d-route"].endswith(row)
        assert answer.json()["s2d"]["plan"]["max_proposal"] == plan.max_proposal
    shown = call(app, "GET", "/v1/models/tiny").json()
    assert shown["s2d"]["plan"]["max_proposal"] == 2


def test_models_list_routes_as_what_they_are() -> None:
    app = app_over(backend(Rules(splits=CANARY)))
    models = call(app, "GET", "/v1/models").json()["data"]
    names = ["tiny", "tiny-int8", "auto", "auto:fast", "auto:cheap", "prod"]
    assert [model["id"] for model in models] == names
    assert models[-1]["s2d"] == {"chooses_among": ["tiny", "tiny-int8"]}
    assert call(app, "GET", "/v1/models/auto:fast").json() == models[3]


def test_without_routing_there_is_no_auto_and_tokens_need_a_target() -> None:
    answer = post(app_over(FakeBackend()), model="auto")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    body = {"model": "auto", "prompt": "hi"}
    assert call(app_over(backend()), "POST", "/tokenize", json=body).status_code == 404


def test_a_changed_configuration_is_in_force_for_the_next_request() -> None:
    """The edge is told nothing and is not built anew."""
    fake = backend(Rules(splits={"prod": {"tiny": 1.0}}))
    app = app_over(fake)
    assert post(app, model="prod").json()["model"] == "tiny"
    fake.rules = Rules(splits={"prod": {"tiny-int8": 1.0}}, plans=[PlanRule(Plan((), 0.0, 1))])
    assert post(app, model="prod").json()["model"] == "tiny-int8"
    assert fake.requests[-1][1].plan.max_proposal == 1
    fake.costs = {**COSTS, "dearest": 99.0}
    assert post(app, model="auto").json()["model"] == "dearest"
    fake.costs = {"tiny-int8": 1.0}
    assert post(app, model="tiny").status_code == 404
    assert post(app, model="auto").json()["model"] == "tiny-int8"


def test_a_dead_target_is_not_chosen_but_may_be_named() -> None:
    fake = backend(Rules(splits=CANARY))
    app = app_over(fake)
    fake.dead = {"tiny"}
    for model in ("auto", "auto:fast", "prod"):
        assert post(app, model=model).json()["model"] == "tiny-int8"
    assert post(app, model="tiny").json()["model"] == "tiny"
    fake.dead = {"tiny", "tiny-int8"}
    refused = post(app, model="auto")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    assert "retry-after" in refused.headers


def test_every_router_sends_a_conversation_to_the_same_target_and_others_spread() -> None:
    rules = Rules[Plan](splits={"prod": {"tiny": 1.0, "tiny-int8": 1.0}})
    first, second = (app_over(backend(rules)) for _ in range(2))
    went = set()
    for number in range(12):
        turns: list[dict[str, str]] = [{"role": "user", "content": f"question {number}"}]
        target = post(first, model="prod", messages=turns).json()["model"]
        turns += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "and?"}]
        for model in ("prod", "auto:fast"):
            one, two = (
                post(app, model=model, messages=turns).json()["model"] for app in (first, second)
            )
            assert one == two
        assert post(second, model="prod", messages=turns).json()["model"] == target
        went.add(target)
    assert went == {"tiny", "tiny-int8"}


def test_open_requests_make_a_target_slower_until_they_end() -> None:
    """Ten open texts of 1,000 tokens on 8 slots of 20 tokens/s are more than `auto` waits for."""
    rules = Rules[Plan](patience_s=20.0, plans=[PlanRule(Plan((), 0, 1), max_load=1.0)])
    fake = backend(rules)
    body = chat_body(model="tiny", max_tokens=1_000)

    async def run() -> None:
        app = app_over(fake)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def route() -> str:
                fake.script = SCRIPT
                answer = await client.post(CHAT, json=chat_body(model="auto", max_tokens=10))
                return str(answer.headers["x-s2d-route"])

            assert (await route()).startswith("tiny; ")
            fake.script = [HANG]
            running = [asyncio.create_task(client.post(CHAT, json=body)) for _ in range(10)]
            while len(fake.requests) < 11:
                await asyncio.sleep(0.01)
            assert (await route()).startswith("tiny-int8; ")
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            assert (await route()).startswith("tiny; ")
            assert (await route()).endswith("; plan 1")

    asyncio.run(run())


def test_a_tenant_is_served_by_its_own_targets_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, targets=["tiny-int8"], modes=["off", "auto"]) as made:
            made.tenants.add("nobody", targets=["gone"])
            client = made.client(backend(Rules(splits=CANARY | {"old": {"tiny": 1.0}})))
            acme, root = made.tenants.header("acme"), made.tenants.header("root")
            for model in ("auto", "auto:fast", "auto:cheap", "prod"):
                answer = await client.post(CHAT, json=chat_body(model=model), headers=acme)
                assert answer.json()["model"] == "tiny-int8"
                assert answer.headers["x-s2d-route"].startswith("tiny-int8; ")
            for model, who in [("old", "acme"), ("tiny", "acme"), ("auto", "nobody")]:
                header = made.tenants.header(who)
                refused = await client.post(CHAT, json=chat_body(model=model), headers=header)
                code = refused.json()["error"]["code"]
                assert (refused.status_code, code) == (403, "model_not_allowed")
            refused = await client.post(CHAT, json=chat_body(model="auto"), headers=root)
            assert refused.json()["error"]["code"] == "tenant_key_needed"
            models = (await client.get("/v1/models", headers=acme)).json()["data"]
            seen = {model["id"]: model["s2d"].get("chooses_among") for model in models}
            assert seen["auto"] == seen["prod"] == ["tiny-int8"]
            assert "old" not in seen
            await until(lambda: len(made.usage_lines()) == 4)
            assert {line["target"] for line in made.usage_lines()} == {"tiny-int8"}

    asyncio.run(run())


def test_the_openai_client_asks_for_auto_and_reads_who_answered() -> None:
    with (
        serving(app_over(backend())) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client,
    ):
        raw = client.chat.completions.with_raw_response.create(
            model="auto:cheap", messages=[{"role": "user", "content": "hi"}]
        )
        assert raw.parse().model == "tiny-int8"
        assert raw.headers["x-s2d-route"].startswith("tiny-int8; auto:cheap")


def test_a_conversation_is_known_by_its_opening() -> None:
    def chat(*turns: tuple[str, str]) -> ChatPrompt:
        return ChatPrompt(tuple({"role": role, "content": content} for role, content in turns))

    start = chat(("system", "be brief"), ("user", "hi"))
    later = chat(("system", "be brief"), ("user", "hi"), ("assistant", "x"), ("user", "y"))
    assert conversation(start, "acme") == conversation(later, "acme")
    others = [
        conversation(start, "other"),
        conversation(chat(("system", "be brief"), ("user", "ho")), "acme"),
        conversation(chat(("system", "be long"), ("user", "hi")), "acme"),
        conversation(TextPrompt("hi"), "acme"),
        conversation(TokenPrompt((1, 2)), "acme"),
    ]
    assert len({conversation(start, "acme"), *others}) == 6
    long = TextPrompt("a" * 2_000)
    assert conversation(long, "") == conversation(TextPrompt("a" * 3_000), "")


def test_prompts_are_estimated_by_their_bytes_and_ids_are_counted() -> None:
    assert num_tokens(TokenPrompt((1, 2, 3))) == 3
    assert num_tokens(TextPrompt("x" * 400)) == 101


CODE = "```python\nfor x in y:\n    print(x)\n```"


@pytest.mark.parametrize(
    ("body", "route", "length"),
    [
        ({"content": "Why?"}, "tiny; named; plan file, chat", 5),
        ({"content": CODE}, "tiny; named; plan file, code", 6),
        ({"content": "Why?", "s2d": {"task": "code"}}, "tiny; named; plan file, code", 6),
        ({"content": CODE, "s2d": {"mode": "force"}}, "tiny; named", PLAN.max_proposal),
        ({"content": CODE, "s2d": {"max_proposal": 1}}, "tiny; named; plan file, code", 1),
    ],
)
def test_an_auto_request_gets_the_learned_plan_of_what_it_looks_like(
    body: dict[str, Any], route: str, length: int
) -> None:
    """The reply says which plan that was, and the header why; fields of the request stay."""
    plans = {"chat": Plan(max_proposal=5), "code": Plan(max_proposal=6)}
    fake = backend(Rules(learned=lambda target, task: (task, plans[task])))
    messages = [{"role": "user", "content": body.pop("content")}]
    answer = post(app_over(fake), model="tiny", messages=messages, **body)
    assert answer.headers["x-s2d-route"] == route
    assert answer.json()["s2d"]["plan"]["max_proposal"] == length
