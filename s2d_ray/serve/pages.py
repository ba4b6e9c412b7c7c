"""The playground: a page at `/` and the files it loads, held in memory.

One route for each file that is there, so that no path of a request is ever looked up on a disk. The
files carry no data: what the page shows, it asks the API for, with the user's own key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response

from s2d_ray import __version__

FOLDER = Path(__file__).parent / "playground"
INDEX = "index.html"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Named here, since the machine's own table may call scripts plain text, which no browser runs."""

HEADERS = {
    "cache-control": "no-cache",  # kept, but asked for each time: an update must not mix versions
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def _files() -> Mapping[str, Path]:
    """Every file of the playground by the path it is served at."""
    files = [file for file in sorted(FOLDER.iterdir()) if file.suffix in MEDIA_TYPES]
    return {"/" if file.name == INDEX else f"/playground/{file.name}": file for file in files}


PATHS = frozenset(_files())
"""Paths that need no key."""


def add_pages(app: FastAPI) -> None:
    """Serve the page and its files."""
    for path, file in _files().items():
        page = _Page(file.read_bytes(), MEDIA_TYPES[file.suffix])
        app.add_route(path, page.answer, include_in_schema=False)  # GET and HEAD


class _Page:
    """One file and its headers."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type
        digest = hashlib.sha256(content).hexdigest()[:16]
        # The version too: a proxy in front may keep the files of several services.
        self._headers = HEADERS | {"etag": f'"{__version__}-{digest}"'}

    async def answer(self, request: Request) -> Response:
        """The file, or 304 if the browser has this very one."""
        if self._headers["etag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=self._headers)
        return Response(self._content, headers=self._headers, media_type=self._media_type)
