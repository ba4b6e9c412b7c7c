"""A ledger and routers in one process, whose ledger can be taken away, over a scripted backend."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from s2d_ray.config import HttpConfig
from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.keys import Caller, KeyTable
from s2d_ray.policy.ledger import Granted
from s2d_ray.policy.limits import Refusal
from s2d_ray.serve.ingress import build_app
from s2d_ray.serve.ledger import LedgerReplica
from s2d_ray.serve.ledger_messages import Sync
from s2d_ray.serve.request_watch import Observer
from s2d_ray.serve.tenant_gate import TenantGate
from s2d_ray.tenants import TenantsFile, load_tenants, rotated, save_tenants, with_owner
from tests.fakes_http import FakeBackend
from tests.metering import Told

CHAT = "/v1/chat/completions"
MAX_OPEN = 100


class Tenants:
    """A tenants file and the keys in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: dict[str, str] = {}
        save_tenants(path, TenantsFile())
        self.add("root", is_operator=True)

    def add(self, name: str, *, is_operator: bool = False, **fields: Any) -> None:
        tenants = with_owner(load_tenants(self.path), name, fields, is_operator=is_operator)
        tenants, self.keys[name] = rotated(tenants, name, datetime.now(UTC), timedelta(0))
        save_tenants(self.path, tenants)

    def header(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[name]}"}

    def key_id(self, name: str) -> str:
        return self.keys[name].split("-")[1]


class Line:
    """A ledger that can be taken away and put back, as routers find one under its name."""

    def __init__(self, ledger: LedgerReplica | None) -> None:
        self.ledger = ledger

    def _reach(self) -> LedgerReplica:
        if self.ledger is None:
            raise ConnectionError("the ledger is away")
        return self.ledger

    async def admit(self, ask: Ask, wait_s: float) -> Granted | Refusal:
        return await self._reach().admit(ask, wait_s)

    async def sync(self, sync: Sync) -> KeyTable | None:
        return await self._reach().sync(sync)

    async def usage(self, caller: Caller) -> dict[str, Any]:
        return await self._reach().usage(caller)

    async def revoke(self, key_id: str, caller: Caller) -> int | None:
        return await self._reach().revoke(key_id, caller)


class Site:
    """A ledger, routers in front of it, and a client for each."""

    def __init__(self, folder: Path, slots: int, *, prints: bool) -> None:
        self.tenants = Tenants(folder / "tenants.yaml")
        self.state = folder / "state"
        self.prints = prints
        self.slots = {"tiny": slots, "tiny-int8": slots}
        self.line = Line(None)
        self.told = Told()
        self.apps: list[FastAPI] = []
        self._ledgers: list[LedgerReplica] = []
        self._gates: list[TenantGate] = []

    def start_ledger(self) -> LedgerReplica:
        config = {
            "file": str(self.tenants.path),
            "state_dir": str(self.state),
            "usage_to_stdout": self.prints,
        }
        ledger = LedgerReplica(config, MAX_OPEN, lambda: self.slots, self.told.meter)
        self._ledgers.append(ledger)
        self.line.ledger = ledger
        return ledger

    def kill_ledger(self) -> None:
        ledger = self._ledgers[-1]
        self.line.ledger = None
        for task in ledger._tasks:
            task.cancel()
        for answer in ledger._answers.values():
            answer.set_exception(ConnectionError("the ledger died"))

    def client(
        self,
        backend: FakeBackend,
        max_wait_s: float = 30.0,
        local_texts: int = 0,
        http: HttpConfig | None = None,
        observer: Observer | None = None,
    ) -> httpx.AsyncClient:
        """A client of one more router."""
        gate = TenantGate(self.line, max_wait_s, local_texts)
        self._gates.append(gate)
        app = build_app(backend, http or HttpConfig(), gate, observer=observer)
        self.apps.append(app)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")

    def close(self) -> None:
        for ledger in self._ledgers:
            for task in ledger._tasks:
                task.cancel()
        for gate in self._gates:
            if gate._syncing is not None:
                gate._syncing.cancel()

    def usage_lines(self, name: str = "usage.jsonl") -> list[dict[str, Any]]:
        path = self.state / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.asynccontextmanager
async def site(
    folder: Path, *, slots: int = 8, prints: bool = False, **limits: Any
) -> AsyncIterator[Site]:
    """With the tenants acme, of these limits, and other, of none."""
    made = Site(folder, slots, prints=prints)
    made.tenants.add("acme", **limits)
    made.tenants.add("other")
    made.start_ledger()
    try:
        yield made
    finally:
        made.close()


async def until(claim: Any) -> None:
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.01)


def code_of(response: httpx.Response) -> str:
    body = response.json()
    assert body["error"].keys() == {"message", "type", "param", "code"}
    code: str = body["error"]["code"]
    return code


class Receiver:
    """An ASGI connection whose client can leave."""

    def __init__(
        self, app: FastAPI, headers: dict[str, str], body: dict[str, Any], path: str = CHAT
    ) -> None:
        raw = [(name.encode(), text.encode()) for name, text in headers.items()]
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": raw,
            "query_string": b"",
        }
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        content = json.dumps(body).encode()
        self._messages.put_nowait({"type": "http.request", "body": content, "more_body": False})
        self.sent: list[Mapping[str, Any]] = []
        self.task = asyncio.ensure_future(app(self._scope, self._messages.get, self._send))

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def _send(self, message: Mapping[str, Any]) -> None:
        self.sent.append(message)
