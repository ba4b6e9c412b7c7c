"""A hub on a local port: as much of the Hugging Face hub's HTTP as fetching a model uses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "1" * 40


@dataclass
class FakeHub:
    """One repository and what happens to who asks for it.

    refs: branches, tags and commits -> commit. gated_by: a token that opens it, none: it is open.
    failing: paths that the server breaks off. requests: (method, path, Authorization) so far.
    """

    repo: str
    files: dict[str, bytes]
    refs: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, COMMIT: COMMIT})
    gated_by: str | None = None
    status: int | None = None
    failing: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def fetched(self) -> list[str]:
        """Names of the files whose content was sent, in order of their names."""
        paths = [path for method, path, _ in self.requests if method == "GET"]
        return sorted(path.rpartition("/")[2] for path in paths if "/resolve/" in path)


@contextmanager
def serve_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have `huggingface_hub` talk to `hub`, and be online."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    point_hub_at(url, monkeypatch)
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def point_hub_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another endpoint for `huggingface_hub`, which reads its variables only once."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers["authorization"]))
            if hub.status is not None:
                self._refuse(hub.status, "")
            elif hub.repo not in path:
                self._refuse(404, "RepoNotFound")
            elif path.startswith("/api/models/"):
                self._api(path.removeprefix(f"/api/models/{hub.repo}").strip("/"))
            elif hub.gated_by and self.headers["authorization"] != f"Bearer {hub.gated_by}":
                self._refuse(403, "GatedRepo")
            else:
                self._file(path.partition("/resolve/")[2].partition("/")[2], with_body=with_body)

        def _api(self, rest: str) -> None:
            kind, _, ref = rest.partition("/")
            commit = hub.refs.get(ref or "main")
            if commit is None:
                self._refuse(404, "RevisionNotFound")
            elif kind == "tree":
                tree = [
                    {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                    for name, content in hub.files.items()
                ]
                self._send(json.dumps(tree).encode(), {})
            else:
                siblings = [{"rfilename": name} for name in hub.files]
                info = {"id": hub.repo, "sha": commit, "siblings": siblings}
                self._send(json.dumps(info).encode(), {})

        def _file(self, name: str, *, with_body: bool) -> None:
            content = hub.files[name]
            headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT}
            if with_body and name in hub.failing:
                self._refuse(500, "")
                return
            self._send(content, headers, with_body=with_body)

        def _send(self, body: bytes, headers: dict[str, str], *, with_body: bool = True) -> None:
            self.send_response(200)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
