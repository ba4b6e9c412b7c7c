"""The playground's files, as the edge serves them."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from s2d_ray.config import HttpConfig
from s2d_ray.serve import pages
from s2d_ray.serve.ingress import build_app
from tests.fakes_http import FakeBackend, FakeGate, app_over

FILES = sorted(pages.FOLDER.iterdir())
LONGEST = 200


@cache
def app_of(with_gate: bool) -> FastAPI:
    return build_app(FakeBackend(), HttpConfig(), FakeGate() if with_gate else None)


def ask(method: str, path: str, *, with_gate: bool = False, **headers: str) -> httpx.Response:
    """One request in process; its path reaches the app as it is written here."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app_of(with_gate))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, headers=named)

    return asyncio.run(send())


def test_the_page_allows_nothing_but_its_own_files() -> None:
    answer = ask("GET", "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", sorted(pages.PATHS))
def test_every_file_is_served_with_its_type_without_a_key_and_only_once(path: str) -> None:
    answer = ask("GET", path, with_gate=True)
    assert answer.status_code == 200
    suffix = Path(path).suffix or ".html"
    assert answer.headers["content-type"] == pages.MEDIA_TYPES[suffix]
    etag = answer.headers["etag"]
    again = ask("GET", path, if_none_match=f"W/{etag}")
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == etag
    assert ask("GET", path, if_none_match='"another"').status_code == 200
    head = ask("HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize(
    "path",
    [
        "/playground",
        "/playground/",
        "/playground/index.html",
        "/playground/none.js",
        "/playground/../pages.py",
        "/playground/..%2fpages.py",
        "/playground/%2e%2e/%2e%2e/config/http.py",
        "/playground//etc/passwd",
    ],
)
def test_no_other_path_is_served(path: str) -> None:
    answer = ask("GET", path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_files_cannot_be_written() -> None:
    assert ask("POST", "/").status_code == 405


def test_what_the_page_asks_for_still_needs_a_key() -> None:
    assert ask("GET", "/v1/models", with_gate=True).status_code == 401


def test_every_file_of_the_folder_is_served_and_asks_for_nothing_elsewhere() -> None:
    assert {file.suffix for file in FILES} == pages.MEDIA_TYPES.keys()
    for file in FILES:
        text = file.read_text()
        addresses = re.findall(r"https?://[^\s\"'`)]+", text)
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file.name
        assert not re.search(r"<script>|<style|\son\w+=|\sstyle=|innerHTML|eval\(", text), file.name
        assert len(text.splitlines()) < LONGEST, f"{file.name} does more than one thing"


def test_the_page_names_files_that_there_are() -> None:
    text = (pages.FOLDER / pages.INDEX).read_text()
    named = {f"/{path}" for path in re.findall(r'(?:src|href)="(playground/[^"]+)"', text)}
    assert named <= pages.PATHS
    styles = {path for path in pages.PATHS if path.endswith(".css")}
    assert styles <= named


def test_every_page_of_the_edge_is_one_of_its_routes_without_a_schema() -> None:
    routes = app_over(FakeBackend()).routes
    hidden = {route.path for route in routes if not route.include_in_schema}  # type: ignore[attr-defined]
    assert hidden == pages.PATHS
