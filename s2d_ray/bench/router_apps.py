"""What `s2d bench router` deploys: a target without a model, and an echo without a router.

Serve imports this module, so it loads no torch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.messages import (
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Prompt,
    Started,
    Tokens,
    Usage,
)
from s2d_ray.engine.target_engine import EngineStatus, Publish
from s2d_ray.engine.turns import turns_for
from s2d_ray.serve.target import TargetReplica

if TYPE_CHECKING:
    from s2d_ray.engine.steering import Steering

TOKEN_ID, TEXT = 7, " word"
PROMPT_IDS = tuple(range(8))
PACE_S = 0.005
"""Between two tokens of a stream: those of a quick model."""
CHUNK = {"object": "text_completion", "choices": [{"index": 0, "text": TEXT}], "padding": "x" * 128}
"""About as long as a chunk of ours."""


class FixedEngine:
    """A `TargetEngine` that writes the same token: the first one at once, others every `PACE_S`."""

    def prepare(self, request: GenerateRequest) -> Callable[[Publish], None]:
        """Nothing to be prepared."""
        num_tokens = request.sampling.max_tokens or 1

        def begin(publish: Publish) -> None:
            def write(left: int) -> None:
                publish(Delta(TEXT, (), (TOKEN_ID,), ((0, 0, 0, ()),)))
                if left > 1:
                    asyncio.get_running_loop().call_later(PACE_S, write, left - 1)
                else:
                    usage = Usage(len(PROMPT_IDS), num_tokens)
                    publish(Finished(FinishReason.LENGTH, usage))

            publish(Started(len(PROMPT_IDS), PROMPT_IDS, "fixed"))
            write(num_tokens)

        return begin

    def abort(self, request_id: str) -> None:
        """All is written by then."""

    def tokenize(self, prompt: Prompt) -> Tokens:
        """Any prompt has these ids."""
        return Tokens(PROMPT_IDS, ("",) * len(PROMPT_IDS), len(PROMPT_IDS))

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """One word for each."""
        return TEXT * len(token_ids)

    def status(self) -> EngineStatus:
        """Always well."""
        return EngineStatus(True, 0, 0, 0.0, fingerprint="fixed")

    def stop(self) -> None:
        """Nothing runs."""


class FixedReplica(TargetReplica):
    """A replica as all are, but for its engine."""

    def _load(self, deadlines_ms: dict[str, int]) -> Steering:
        from s2d_ray.engine.steering import Steering

        self._client = DraftClient(1.0, 1.0)
        self._turns = turns_for("cpu")
        self._engine = FixedEngine()
        return Steering()


class Echo:
    """Answers at once, behind a handle."""

    async def whole(self, body: dict[str, Any]) -> dict[str, Any]:
        """One answer."""
        return {**CHUNK, "seed": body["seed"]}

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """One answer for each token, the first one at once, others every `PACE_S`."""
        for number in range(body["max_tokens"]):
            await asyncio.sleep(PACE_S if number else 0)
            yield {**CHUNK, "seed": body["seed"]}


class EchoIngress:
    """The least that stands between Serve's proxy and a handle."""

    def __init__(self, echo: Any) -> None:
        self._echo = echo

    async def __call__(self, request: Request) -> Response:
        """Hand a body on; -> what comes back, whole or as a stream."""
        body = await request.json()
        if not body["stream"]:
            return JSONResponse(await self._echo.whole.remote(body))
        chunks = self._echo.options(stream=True).stream.remote(body)
        return StreamingResponse(events(chunks), media_type="text/event-stream")


async def events(chunks: Any) -> AsyncIterator[bytes]:
    """Server-sent events of some objects."""
    async for chunk in chunks:
        yield b"data: %s\n\n" % json.dumps(chunk).encode()


def build_target(args: dict[str, Any]) -> Application:
    """One target of the config, with `FixedEngine`."""
    return serve.deployment(name="target")(FixedReplica).bind(args["target"], None)


def build_echo(args: dict[str, Any]) -> Application:
    """The bare one. args: max_ongoing_requests of both deployments."""
    echo = serve.deployment(name="echo", ray_actor_options={"num_cpus": 0}, **args)(Echo)
    ingress = serve.deployment(name="ingress", ray_actor_options={"num_cpus": 0}, **args)
    return ingress(EchoIngress).bind(echo.bind())
