"""`s2d chat`: a streaming client that shows who drafted each token."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console
from rich.text import Text

from s2d_ray.errors import RunError, S2DError

CONNECT_TIMEOUT_S = 5.0
KEY_VARIABLE = "S2D_API_KEY"
"""Holds the API key: a secret, which would stand in the list of processes if it were an option."""
EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")
_NAMES = {None: "target", 0: "tier 0"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def run_chat(
    url: str,
    model: str | None,
    prompt: str | None,
    *,
    system: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    mode: str | None = None,
    exit_thresholds: Sequence[float] | None = None,
    stop_threshold: float | None = None,
    max_proposal: int | None = None,
    json_output: bool = False,
) -> int:
    """Chat with the server at `url`: one answer to `prompt`, or a loop without one.

    What is None is left to the server; `model` None is the server's first. `mode` is auto, off or
    force. With `json_output` the one answer is printed as one JSON object.
    Returns: the exit code. Errors are one line on stderr.
    """
    speculation = {
        "mode": mode,
        "exit_thresholds": None if exit_thresholds is None else list(exit_thresholds),
        "stop_threshold": stop_threshold,
        "max_proposal": max_proposal,
        "trace": True,
    }
    options = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed}
    try:
        if json_output and prompt is None:
            raise RunError("--json prints one answer: give a prompt")
        with _client(url) as client:
            name = model or _first_model(client)
            body = options | {"model": name, "s2d": speculation}
            chat = Chat(client, body, system, Console(highlight=False))
            if prompt is None:
                return chat.loop()
            return chat.answer_as_json(prompt) if json_output else chat.answer_once(prompt)
    except S2DError as error:
        print(error.message, file=sys.stderr)
        return EXIT_FAILED


@dataclass
class Answer:
    """What has come of one answer so far. `seconds` runs from the request to the last chunk."""

    text: str = ""
    tokens: list[dict[str, Any]] = field(default_factory=list)
    s2d: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    seconds: float = 0.0

    def add(self, chunk: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
        """Take in one chunk of the stream; returns its text and its traced tokens."""
        self.usage = chunk.get("usage") or self.usage
        s2d = chunk.get("s2d", {})
        tokens = s2d.pop("tokens", [])
        self.s2d |= s2d
        self.tokens += tokens
        text = ""
        for choice in chunk["choices"]:
            text = choice["delta"].get("content", "")
            self.finish_reason = choice["finish_reason"]
        self.text += text
        return text, tokens


class Chat:
    """A conversation: its history, and how answers are shown."""

    def __init__(
        self, client: httpx.Client, body: dict[str, Any], system: str | None, console: Console
    ) -> None:
        self._client = client
        self._body = body
        self._console = console
        self._messages = [] if system is None else [{"role": "system", "content": system}]
        self._colours: dict[int, str] = {}

    def answer_as_json(self, prompt: str) -> int:
        """Print one answer as one JSON object."""
        answer = Answer()
        try:
            self._ask(prompt, answer, show=False)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        shown = {
            "model": self._body["model"],
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "usage": answer.usage,
            "s2d": answer.s2d | {"tokens": answer.tokens},
            "seconds": round(answer.seconds, 3),
        }
        print(json.dumps(shown, ensure_ascii=False))
        return EXIT_OK

    def answer_once(self, prompt: str) -> int:
        """Print one answer as it comes, then its summary. Ctrl-C stops it."""
        answer = Answer()
        try:
            self._ask(prompt, answer, show=True)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
        finally:
            self._summarise(answer)
        return EXIT_OK

    def loop(self) -> int:
        """Answer line after line until an empty one. Ctrl-C stops an answer, not the loop."""
        self._console.print(f"{self._body['model']} at {self._client.base_url} (empty line ends)")
        while True:
            try:
                prompt = self._console.input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                prompt = ""
            if not prompt:
                return EXIT_OK
            answer = Answer()
            try:
                self._ask(prompt, answer, show=True)
            except KeyboardInterrupt:
                pass
            except RunError as error:
                print(error.message, file=sys.stderr)
                continue
            self._summarise(answer)
            if answer.text:
                self._messages += [
                    {"role": "user", "content": prompt},
                    {"role": "assistant", "content": answer.text},
                ]

    def _ask(self, prompt: str, answer: Answer, *, show: bool) -> None:
        messages = [*self._messages, {"role": "user", "content": prompt}]
        start_s = time.perf_counter()
        try:
            for chunk in _stream(self._client, self._body | {"messages": messages}):
                text, tokens = answer.add(chunk)
                if show:
                    self._show(text, tokens)
        finally:
            answer.seconds = time.perf_counter() - start_s

    def _show(self, text: str, tokens: list[dict[str, Any]]) -> None:
        if text == "".join(token["text"] for token in tokens):
            for token in tokens:
                self._put(token["text"], token["drafted_by"])
        else:
            # A character made of several tokens, or a held-back stop string: no one wrote it alone.
            self._put(text, None)

    def _put(self, text: str, drafted_by: int | None) -> None:
        clean = _CONTROL.sub("\ufffd", text)
        self._console.print(Text(clean, self._style(drafted_by)), end="", soft_wrap=True)

    def _style(self, drafted_by: int | None) -> str:
        if drafted_by is None:
            return ""
        return self._colours.setdefault(drafted_by, _COLOURS[len(self._colours) % len(_COLOURS)])

    def _summarise(self, answer: Answer) -> None:
        """One line of figures; the coloured names in it are the legend."""
        if not answer.tokens:
            return
        num_tokens = len(answer.tokens)
        figures = [f"{num_tokens} tokens", f"{num_tokens / answer.seconds:.1f} tokens/s"]
        if "mean_accepted_length" in answer.s2d:
            figures.append(f"mean accepted length {answer.s2d['mean_accepted_length']:.2f}")
        line = Text().append(", ".join(figures) + "; written by ", "dim")
        shares = Counter(token["drafted_by"] for token in answer.tokens)
        for index, drafted_by in enumerate(
            sorted(shares, key=lambda layers: -1 if layers is None else layers)
        ):
            who = _NAMES.get(drafted_by, f"{drafted_by} layers")
            line.append(", " if index else "", "dim")
            line.append(f"{who} {shares[drafted_by] / num_tokens:.0%}", self._style(drafted_by))
        line.append(f"; seed {answer.s2d['seed']}", "dim")
        self._console.print()
        self._console.print(line, soft_wrap=True)


def _client(url: str) -> httpx.Client:
    try:
        # A proxy named in the environment cannot reach this machine's loopback.
        is_local = httpx.URL(url).host in _LOOPBACK
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        key = os.environ.get(KEY_VARIABLE)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=not is_local)
    except httpx.InvalidURL as error:
        raise RunError(f"{url}: not a URL such as http://127.0.0.1:8000 ({error})") from None


def _first_model(client: httpx.Client) -> str:
    try:
        response = client.get("/v1/models")
    except httpx.TransportError as error:
        raise _unreachable(client, error) from None
    _refuse_errors(response)
    try:
        return str(response.json()["data"][0]["id"])
    except (ValueError, KeyError, TypeError, IndexError):
        raise RunError(f"{response.url}: lists no model; is this an s2d server?") from None


def _stream(client: httpx.Client, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks of one answer. Raises RunError if there is no server, or none with an answer."""
    streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
    try:
        with client.stream("POST", "/v1/chat/completions", json=streamed) as response:
            if response.is_error:
                response.read()
                _refuse_errors(response)
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    chunk = json.loads(line.removeprefix("data: "))
                    if "error" in chunk:
                        raise RunError(f"the server gave up: {chunk['error']['message']}")
                    yield chunk
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
        raise _unreachable(client, error) from None
    except httpx.TransportError as error:
        raise RunError(f"{client.base_url}: the connection broke: {error}") from None
    raise RunError(f"{client.base_url}: the stream ended early; ask again")


def _refuse_errors(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        reason = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = "is this an s2d server?"
    raise RunError(f"{response.url}: HTTP {response.status_code}: {reason}")


def _unreachable(client: httpx.Client, error: Exception) -> RunError:
    return RunError(f"{client.base_url}: no server answers ({error}); start one with: s2d serve")
