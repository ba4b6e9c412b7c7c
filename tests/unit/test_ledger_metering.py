"""What is metered beside texts, what is written down of refusals, and a router on its own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from s2d_ray.engine.messages import Delta, Started
from s2d_ray.serve import tenant_gate
from s2d_ray.serve.ledger_messages import TOKEN_ROUTES
from tests.fakes_http import HANG, FakeBackend, chat_body
from tests.ledger_site import CHAT, Receiver, code_of, site, until

BODIES = {
    "/tokenize": {"model": "tiny", "prompt": "x" * 5_000},
    "/detokenize": {"model": "tiny", "tokens": [1] * 2_500},
}


@pytest.mark.parametrize("path", TOKEN_ROUTES)
def test_a_call_of_tokens_costs_a_request_and_a_token_for_each_kib(
    tmp_path: Path, path: str
) -> None:
    async def run() -> None:
        async with site(tmp_path, requests_per_minute=2, tokens_per_minute=600) as made:
            client = made.client(FakeBackend())
            acme = made.tenants.header("acme")
            answers = [await client.post(path, json=BODIES[path], headers=acme) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            assert code_of(answers[2]) == "requests_per_minute"
            assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
            assert answers[0].headers["x-ratelimit-remaining-tokens"] == "595"
            text = await client.post(CHAT, json=chat_body(), headers=acme)
            assert code_of(text) == "requests_per_minute"
            await until(lambda: len(made.usage_lines()) == 2)
            record = made.usage_lines()[0]
            assert (record["target"], record["status"]) == (path, 200)
            assert record["reserved_tokens"] == 5
            usage = (await client.get("/v1/usage", headers=acme)).json()["tenants"]["acme"]
            assert (usage[path]["requests"], usage[path]["refused"]) == (2, 1)
            assert (usage["tiny"]["requests"], usage["tiny"]["refused"]) == (0, 1)

    asyncio.run(run())


def test_calls_of_tokens_wait_for_each_other_and_never_behind_texts(tmp_path: Path) -> None:
    """No slot is free for a text; ten calls run, two wait, and one of these leaves."""

    async def run() -> None:
        backend = FakeBackend()
        go_on = asyncio.Event()
        tokenize = backend.tokenize

        async def slow(target: str, prompt: object) -> object:
            await go_on.wait()
            return await tokenize(target, prompt)  # type: ignore[arg-type]

        backend.tokenize = slow  # type: ignore[assignment,method-assign]
        async with site(tmp_path, slots=0) as made:
            made.client(backend)
            (app,) = made.apps
            acme = made.tenants.header("acme")
            pure = made.line.ledger._ledger
            Receiver(app, acme, chat_body())
            path, body = "/tokenize", BODIES["/tokenize"]
            calls = [Receiver(app, acme, body, path) for _ in range(12)]
            await until(lambda: pure.running(path) == 10 and pure.num_waiting == 3)
            calls[-1].leave()
            await until(lambda: pure.num_waiting == 2)
            calls[0].leave()
            await until(lambda: pure.num_waiting == 1)
            go_on.set()
            await asyncio.wait([call.task for call in calls])
            statuses = [call.sent[0]["status"] for call in calls]
            assert statuses == [499, *[200] * 10, 499]
            await until(lambda: pure.running(path) == 0)
            records = [record["status"] for record in made.usage_lines()]
            assert sorted(records) == [200] * 10 + [499]

    asyncio.run(run())


def test_a_failed_call_of_tokens_is_recorded_with_its_status(tmp_path: Path) -> None:
    async def run() -> None:
        backend = FakeBackend()

        async def broken(target: str, prompt: object) -> object:
            raise ValueError("broken")

        backend.tokenize = broken  # type: ignore[assignment,method-assign]
        async with site(tmp_path) as made:
            client = made.client(backend)
            answer = await client.post(
                "/tokenize", json=BODIES["/tokenize"], headers=made.tenants.header("acme")
            )
            assert (answer.status_code, code_of(answer)) == (500, "internal_error")
            await until(made.usage_lines)
            assert made.usage_lines()[0]["status"] == 500

    asyncio.run(run())


def test_refused_requests_are_counted_in_a_file_of_their_own(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, requests_per_minute=1) as made:
            client = made.client(FakeBackend())
            acme = made.tenants.header("acme")
            for _ in range(30):
                await client.post(CHAT, json=chat_body(), headers=acme)
            made.line.ledger._save()
            (line,) = made.usage_lines("refused.jsonl")
            assert (line["tenant"], line["target"]) == ("acme", "tiny")
            assert (line["status"], line["reason"]) == (429, "requests_per_minute")
            assert line["requests"] == 29
            made.line.ledger._save()
            assert len(made.usage_lines("refused.jsonl")) == 1
            await until(lambda: len(made.usage_lines()) == 1)
            made.kill_ledger()
            made.start_ledger()
            usage = (await client.get("/v1/usage", headers=acme)).json()["tenants"]["acme"]
            assert usage["tiny"]["refused"] == 29

    asyncio.run(run())


def test_usage_is_printed_as_well_if_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        async with site(tmp_path, prints=True, requests_per_minute=1) as made:
            client = made.client(FakeBackend())
            acme = made.tenants.header("acme")
            for _ in range(2):
                await client.post(CHAT, json=chat_body(), headers=acme)
            await until(made.usage_lines)
            made.line.ledger._save()

    asyncio.run(run())
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in printed] == [200, 429]


def test_a_router_runs_its_share_without_a_ledger_and_the_next_one_charges_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share is one text: the second request is refused, the first goes on and is settled."""
    monkeypatch.setattr(tenant_gate, "AWAY_S", 0.5)

    async def run() -> None:
        async with site(tmp_path, tokens_per_minute=10**6) as made:
            hanging = FakeBackend([Started(7), Delta("abc"), HANG])
            client = made.client(hanging, local_texts=1)
            acme = made.tenants.header("acme")
            assert (await client.get("/v1/models", headers=acme)).status_code == 200
            made.line.ledger._save()
            made.kill_ledger()
            (app,) = made.apps
            running = Receiver(app, acme, chat_body(stream=True))
            await until(lambda: len(running.sent) > 1)
            refused = await client.post(CHAT, json=chat_body(), headers=acme)
            assert (refused.status_code, code_of(refused)) == (503, "ledger_away")
            new = made.start_ledger()._ledger
            await until(lambda: new.running("tiny") == 1)
            running.leave()
            await asyncio.wait_for(running.task, 20)
            await until(lambda: new.running("tiny") == 0)
            assert (new.counters["adopted"], new.counters["granted"]) == (1, 0)
            (record,) = made.usage_lines()
            assert (record["tenant"], record["status"]) == ("acme", 499)
            assert record["queue_ms"] >= 500

    asyncio.run(run())
