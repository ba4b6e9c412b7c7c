"""The HTTP edge with tenants, in process: the real gate and the real ledger, a scripted backend."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from s2d_ray.engine.messages import Delta, Event, Finished, FinishReason, Started, Usage
from s2d_ray.policy import buckets
from s2d_ray.policy.keys import Caller, KeyTable
from s2d_ray.serve import tenant_gate
from s2d_ray.serve.ledger_messages import Sync
from s2d_ray.serve.openai.document import document
from s2d_ray.tenants import load_tenants, revoked, save_tenants
from tests.fakes_http import HANG, SCRIPT, FakeBackend, chat_body
from tests.ledger_site import CHAT, Receiver, code_of, site, until


@pytest.fixture
def no_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets stay as they are, so that what was taken can be told exactly."""
    monkeypatch.setattr(buckets, "SECONDS", 1e15)


@pytest.mark.usefixtures("no_refill")
@pytest.mark.parametrize("stream", [False, True])
def test_a_key_opens_the_service_and_what_it_took_is_settled_and_written_down(
    tmp_path: Path, stream: bool
) -> None:
    async def run() -> None:
        async with site(tmp_path, tokens_per_minute=1_000, requests_per_minute=5) as made:
            client = made.client(FakeBackend())
            for header in ({}, {"authorization": "Bearer nonsense"}):
                refused = await client.post(CHAT, json=chat_body(), headers=header)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
            body = chat_body(max_tokens=20, stream=stream)
            answer = await client.post(CHAT, json=body, headers=made.tenants.header("acme"))
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
            assert answer.headers["x-ratelimit-remaining-requests"] == "4"
            assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 1_000 - 20
            await until(made.usage_lines)
            (record,) = made.usage_lines()
            assert (record["tenant"], record["target"], record["status"]) == ("acme", "tiny", 200)
            assert (record["prompt_tokens"], record["completion_tokens"]) == (7, 4)
            assert (record["drafted_tokens"], record["accepted_tokens"]) == (5, 2)
            assert record["reserved_tokens"] > 27
            usage = (await client.get("/v1/usage", headers=made.tenants.header("acme"))).json()
            assert usage["tenants"]["acme"]["tiny"]["completion_tokens"] == 4
            left = made.line.ledger._ledger.allowances("acme", 0.0)[1].remaining
            assert left == 1_000 - 11

    asyncio.run(run())


def test_keys_say_which_targets_modes_and_routes(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, targets=["tiny"], modes=["off"]) as made:
            client = made.client(FakeBackend())
            acme, root = made.tenants.header("acme"), made.tenants.header("root")

            async def post(headers: dict[str, str], **fields: Any) -> httpx.Response:
                return await client.post(CHAT, json=chat_body(**fields), headers=headers)

            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
            for path in ("/version", "/openapi.json", "/v1/models", "/metrics", "/nowhere"):
                assert (await client.get(path)).status_code == 401
            models = (await client.get("/v1/models", headers=acme)).json()["data"]
            assert [model["id"] for model in models] == ["tiny"]
            assert code_of(await post(acme, model="tiny-int8")) == "model_not_allowed"
            assert code_of(await post(acme)) == "mode_not_allowed"
            assert (await post(acme, s2d={"mode": "off"})).status_code == 200
            assert code_of(await post(root)) == "tenant_key_needed"
            assert code_of(await client.get("/metrics", headers=acme)) == "operator_key_needed"
            assert (await client.get("/metrics", headers=root)).status_code == 200
            nothing = {"model": "tiny-int8", "prompt": "x"}
            refused = await client.post("/tokenize", json=nothing, headers=acme)
            assert (refused.status_code, code_of(refused)) == (403, "model_not_allowed")

    asyncio.run(run())


def test_a_tenants_limit_is_429_with_the_time_to_come_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, requests_per_minute=1, max_running=1) as made:
            client = made.client(FakeBackend())
            acme = made.tenants.header("acme")
            await client.post(CHAT, json=chat_body(), headers=acme)
            refused = await client.post(CHAT, json=chat_body(), headers=acme)
            assert (refused.status_code, code_of(refused)) == (429, "requests_per_minute")
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert 50 <= int(refused.headers["retry-after"]) <= 60
            assert refused.headers["x-s2d-reason"] == "requests_per_minute"
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            many = await client.post(CHAT, json=chat_body(n=2), headers=acme)
            assert (many.status_code, many.json()["error"]["param"]) == (400, "n")
            other = made.tenants.header("other")
            assert (await client.post(CHAT, json=chat_body(), headers=other)).status_code == 200

    asyncio.run(run())


def test_a_request_that_waits_too_long_is_503(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, slots=0) as made:
            client = made.client(FakeBackend(), max_wait_s=0.2)
            refused = await client.post(CHAT, json=chat_body(), headers=made.tenants.header("acme"))
            assert (refused.status_code, code_of(refused)) == (503, "deadline")
            assert refused.headers["retry-after"] == "1"

    asyncio.run(run())


@pytest.mark.usefixtures("no_refill")
def test_clients_that_leave_free_their_place_in_the_queue_and_their_slot(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, slots=1, tokens_per_minute=10_000) as made:
            made.client(FakeBackend([Started(7), Delta("abc"), HANG]))
            (app,) = made.apps
            acme = made.tenants.header("acme")
            running = Receiver(app, acme, chat_body(stream=True, max_tokens=20))
            await until(lambda: len(running.sent) > 1)
            pure = made.line.ledger._ledger
            waiting = Receiver(app, acme, chat_body(max_tokens=20))
            await until(lambda: pure.num_waiting == 1)
            waiting.leave()
            await asyncio.wait_for(waiting.task, 20)
            assert pure.num_waiting == 0
            running.leave()
            await asyncio.wait_for(running.task, 20)
            await until(lambda: pure.running("tiny") == 0)
            (record,) = made.usage_lines()
            assert (record["status"], record["prompt_tokens"]) == (499, 7)
            assert record["completion_tokens"] == 3
            assert pure.allowances("acme", 0.0)[0].remaining == 10_000 - 10

    asyncio.run(run())


def test_a_revoked_key_stops_at_once_everywhere_and_for_good(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path) as made:
            clients = [made.client(FakeBackend()) for _ in range(2)]
            acme, root = made.tenants.header("acme"), made.tenants.header("root")
            for client in clients:
                assert (await client.get("/v1/models", headers=acme)).status_code == 200
            path = f"/v1/operator/keys/{made.tenants.key_id('acme')}/revoke"
            assert code_of(await clients[0].post(path, headers=acme)) == "operator_key_needed"
            told = await clients[0].post(path, headers=root)
            assert (told.status_code, told.json()["routers"]) == (200, 2)
            for client in clients:
                refused = await client.get("/v1/models", headers=acme)
                assert (refused.status_code, code_of(refused)) == (401, "revoked_api_key")
            unknown = await clients[0].post("/v1/operator/keys/ffff/revoke", headers=root)
            assert (unknown.status_code, code_of(unknown)) == (404, "key_not_found")
            audit = (made.state / "audit.jsonl").read_text()
            assert json.loads(audit)["subject"] == made.tenants.key_id("acme")
            assert json.loads(audit)["by"] == "root"
            made.kill_ledger()
            made.start_ledger()
            fresh = made.client(FakeBackend())
            assert code_of(await fresh.get("/v1/models", headers=acme)) == "revoked_api_key"

    asyncio.run(run())


def test_a_changed_file_is_in_force_soon_and_a_bad_one_never(tmp_path: Path) -> None:
    """Polled each second here and there; a key taken out of the file stops."""

    async def run() -> None:
        async with site(tmp_path) as made:
            client = made.client(FakeBackend())
            acme = made.tenants.header("acme")
            assert (await client.get("/v1/models", headers=acme)).status_code == 200
            good = made.tenants.path.read_text()
            made.tenants.path.write_text("tenants: {acme: {nope: 1}}")
            await until(lambda: made.told.value("ledger_tenants_file_broken"))
            await asyncio.sleep(1.2)
            assert (await client.get("/v1/models", headers=acme)).status_code == 200
            made.tenants.path.write_text(good)
            tenants = load_tenants(made.tenants.path)
            save_tenants(made.tenants.path, revoked(tenants, made.tenants.key_id("acme")))
            async with asyncio.timeout(5):
                while (await client.get("/v1/models", headers=acme)).status_code == 200:
                    await asyncio.sleep(0.05)

    asyncio.run(run())


@pytest.mark.usefixtures("no_refill")
def test_a_request_waits_for_a_ledger_that_comes_back_and_runs_once(tmp_path: Path) -> None:
    """One runs and one waits while the ledger dies; the next one adopts it and keeps its slot."""

    async def run() -> None:
        async with site(tmp_path, slots=1, tokens_per_minute=10_000) as made:
            scripts = iter([[Started(7), Delta("abc"), HANG], SCRIPT])
            made.client(FakeBackend(lambda _: next(scripts)))
            (app,) = made.apps
            acme = made.tenants.header("acme")
            running = Receiver(app, acme, chat_body(stream=True, max_tokens=20))
            await until(lambda: len(running.sent) > 1)
            waiting = Receiver(app, acme, chat_body(max_tokens=20))
            await until(lambda: made.line.ledger._ledger.num_waiting == 1)
            made.line.ledger._save()
            made.kill_ledger()
            await asyncio.sleep(0.5)
            new = made.start_ledger()._ledger
            await until(lambda: new.running("tiny") == 1)
            await until(lambda: new.num_waiting == 1)
            await asyncio.sleep(2.5)
            assert (new.counters["granted"], new.counters["adopted"]) == (0, 1)
            running.leave()
            await asyncio.wait_for(waiting.task, 20)
            assert waiting.sent[0]["status"] == 200
            await until(lambda: len(made.usage_lines()) == 2)
            assert new.allowances("acme", 0.0)[0].remaining == 10_000 - 10 - 11

    asyncio.run(run())


def test_a_record_whose_answer_was_lost_with_the_ledger_counts_once(tmp_path: Path) -> None:
    """It died behind its last snapshot; what it wrote down is counted, and told again in vain."""

    async def run() -> None:
        async with site(tmp_path) as made:
            told: list[Sync] = []
            sync = made.line.sync

            async def heard(one: Sync) -> KeyTable | None:
                told.append(one)
                return await sync(one)

            made.line.sync = heard  # type: ignore[method-assign]
            client = made.client(FakeBackend())
            acme = made.tenants.header("acme")
            assert (await client.post(CHAT, json=chat_body(), headers=acme)).status_code == 200
            await until(lambda: len(made.usage_lines()) == 1)
            made.kill_ledger()
            new = made.start_ledger()
            for one in told:
                await new.sync(one)
            assert sum(len(one.ended) for one in told) == 1
            assert len(made.usage_lines()) == 1
            assert new._totals.sums["acme"]["tiny"]["requests"] == 1

    asyncio.run(run())


def test_without_a_ledger_requests_end_in_503_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_gate, "AWAY_S", 0.5)

    async def run() -> None:
        async with site(tmp_path) as made:
            client, late = made.client(FakeBackend()), made.client(FakeBackend())
            acme = made.tenants.header("acme")
            assert (await client.get("/v1/models", headers=acme)).status_code == 200
            made.kill_ledger()
            for refused in (
                await client.post(CHAT, json=chat_body(), headers=acme),
                await client.get("/v1/usage", headers=acme),
                await late.get("/v1/models", headers=acme),
            ):
                assert (refused.status_code, code_of(refused)) == (503, "ledger_away")
                assert refused.headers["retry-after"] == "1"

    asyncio.run(run())


def test_64_clients_of_two_routers_never_take_more_than_the_bucket(tmp_path: Path) -> None:
    """Whatever they use and however they end; what the ledger counts is what they were granted."""
    limit = 4_000

    def script(request: Any) -> list[Event]:
        num = int(request.sampling.seed) % 40
        used = Usage(prompt_tokens=10, completion_tokens=num)
        return [Started(10), Delta("x" * num), Finished(FinishReason.STOP, used)]

    async def run() -> None:
        async with site(
            tmp_path, slots=16, tokens_per_minute=limit, max_running=50, max_waiting=64
        ) as made:
            clients = [made.client(FakeBackend(script)) for _ in range(2)]
            acme = made.tenants.header("acme")
            loop = asyncio.get_running_loop()
            start_s = loop.time()

            async def one(number: int) -> int:
                client = clients[number % 2]
                body = chat_body(max_tokens=100 + number, seed=number)
                answer = await client.post(CHAT, json=body, headers=acme)
                return answer.status_code

            statuses = [
                status
                for _ in range(3)
                for status in await asyncio.gather(*(one(number) for number in range(64)))
            ]
            assert set(statuses) == {200, 429}
            await until(lambda: len(made.usage_lines()) == statuses.count(200))
            records = made.usage_lines()
            used = sum(r["prompt_tokens"] + r["completion_tokens"] for r in records)
            seconds = loop.time() - start_s
            assert used <= limit * (1 + seconds / 60)
            left = made.line.ledger._ledger.allowances("acme", start_s)[0].remaining
            assert left <= limit - used + limit * seconds / 60 + 1
            assert made.line.ledger._ledger.running("tiny") == 0

    asyncio.run(run())


def test_no_key_and_no_prompt_is_in_a_log_a_record_or_an_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_gate, "AWAY_S", 0.5)
    caplog.set_level(logging.DEBUG)
    answers: list[httpx.Response] = []
    prompt = "the-plan-of-the-bank"
    body = chat_body(messages=[{"role": "user", "content": prompt}])

    async def run() -> str:
        async with site(tmp_path, requests_per_minute=1) as made:
            client = made.client(FakeBackend([ValueError("broken")]))
            for headers in (
                made.tenants.header("acme"),
                made.tenants.header("acme"),
                {"authorization": f"Basic {made.tenants.keys['acme']}"},
                {"authorization": f"Bearer {made.tenants.keys['acme'][:-1]}!"},
            ):
                answers.append(await client.post(CHAT, json=body, headers=headers))
            made.kill_ledger()
            answers.append(await client.post(CHAT, json=body, headers=made.tenants.header("acme")))
            made.start_ledger()
            await until(made.usage_lines)
            return made.tenants.keys["acme"].split("-")[2][:-1]

    secret = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [500, 429, 401, 401, 503]
    for kept in (secret, prompt):
        assert all(kept not in answer.text + str(answer.headers) for answer in answers)
        assert kept not in caplog.text
        for path in tmp_path.rglob("*"):
            assert path.is_dir() or kept not in path.read_text()


def test_the_document_names_every_route_for_tenants_and_asks_for_a_key(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path) as made:
            client = made.client(FakeBackend())
            routes = {
                (route.path.replace("{name}", "{id}"), method.lower())
                for route in made.apps[0].routes
                if route.include_in_schema  # type: ignore[attr-defined]
                for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
            }
            served = await client.get("/openapi.json", headers=made.tenants.header("acme"))
            paths = served.json()["paths"]
            assert served.json() == json.loads(json.dumps(document(with_tenants=True)))
            assert routes == {(p, method) for p, methods in paths.items() for method in methods}
            free = {p for p, methods in paths.items() if "security" not in [*methods.values()][0]}
            assert free == {"/health", "/readyz"}

    asyncio.run(run())


def test_a_full_disk_loses_records_by_count_and_stops_no_request(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path) as made:
            (made.state / "usage.jsonl").unlink(missing_ok=True)
            (made.state / "usage.jsonl").symlink_to("/dev/full")
            client = made.client(FakeBackend())
            for _ in range(3):
                answer = await client.post(
                    CHAT, json=chat_body(), headers=made.tenants.header("acme")
                )
                assert answer.status_code == 200
            await until(lambda: made.told.value("ledger_lost_records") == 3)
            usage = await made.line.ledger.usage(Caller("acme", ""))
            assert usage["acme"]["tiny"]["requests"] == 3

    asyncio.run(run())
