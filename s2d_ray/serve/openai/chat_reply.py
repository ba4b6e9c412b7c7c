"""A chat completion: messages, with calls of functions where the text has them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from s2d_ray.engine.messages import Delta, Finished, FinishReason, GenerateRequest
from s2d_ray.serve.openai.chat import ChatCompletionRequest
from s2d_ray.serve.openai.logprobs import chat_logprobs
from s2d_ray.serve.openai.reply import Form, Head, Reply
from s2d_ray.serve.openai.toolcalls import Call, Piece, Reader

FORM = Form("chat.completion", "chat.completion.chunk")


def chat_reply(
    body: ChatCompletionRequest, head: Head, requests: Sequence[GenerateRequest]
) -> Reply:
    """The reply to a chat completion."""
    choices = [
        ChatChoice(index, body.reader(), tells_logprobs=bool(body.logprobs))
        for index in range(len(requests))
    ]
    return Reply(
        FORM, head, requests, choices, num_choices=body.n or 1, include_usage=body.include_usage
    )


class ChatChoice:
    """One message. See `reply.Choice`."""

    def __init__(self, index: int, reader: Reader, *, tells_logprobs: bool) -> None:
        self._index = index
        self._reader = reader
        self._logprobs: list[dict[str, Any]] | None = [] if tells_logprobs else None
        self._content = ""
        self._calls: list[dict[str, Any]] = []
        self._finish_reason = ""

    def opening(self) -> list[dict[str, Any]]:
        """The role."""
        return [self._payload({"role": "assistant", "content": ""})]

    def add(self, event: Delta) -> list[dict[str, Any]]:
        """Text and calls; a token that is shown has a payload, also while its text is held."""
        deltas = [self._take(piece) for piece in self._reader.push(event.text)]
        if event.tokens and not deltas:
            deltas = [{"content": ""}]
        payloads = [self._payload(delta) for delta in deltas]
        if self._logprobs is not None and payloads:
            told = chat_logprobs(event.tokens)
            self._logprobs += told
            for payload in payloads:
                payload["logprobs"] = None
            payloads[0]["logprobs"] = _logprobs_body(told)
        return payloads

    def end(self, event: Finished) -> list[dict[str, Any]]:
        """What was held back, then the finish reason."""
        payloads = [self._payload(self._take(piece)) for piece in self._reader.finish()]
        is_call = self._calls and event.reason is FinishReason.STOP
        self._finish_reason = "tool_calls" if is_call else event.reason.value
        return [*payloads, self._payload({}, self._finish_reason)]

    def whole(self) -> dict[str, Any]:
        """The message."""
        message: dict[str, Any] = {"role": "assistant", "content": self._content}
        if self._calls:
            message |= {"content": self._content or None, "tool_calls": self._calls}
        return {
            "index": self._index,
            "message": message,
            "finish_reason": self._finish_reason,
            "logprobs": None if self._logprobs is None else _logprobs_body(self._logprobs),
        }

    def _take(self, piece: Piece) -> dict[str, Any]:
        """Keep a piece; -> the delta that tells it."""
        if isinstance(piece, str):
            self._content += piece
            return {"content": piece}
        place = {"index": len(self._calls) if isinstance(piece, Call) else len(self._calls) - 1}
        if isinstance(piece, Call):
            function = {"name": piece.name, "arguments": piece.arguments}
            call = {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
            self._calls.append(call)
            return {"tool_calls": [place | call | {"function": dict(function)}]}
        self._calls[-1]["function"]["arguments"] += piece.text
        return {"tool_calls": [place | {"function": {"arguments": piece.text}}]}

    def _payload(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": self._index, "delta": delta, "finish_reason": finish_reason}


def _logprobs_body(told: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": told, "refusal": None}
