"""Log-probabilities of tokens in the two forms that OpenAI has for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from s2d_ray.engine.messages import TokenLogprob, TokenTrace


def _text(told: TokenLogprob) -> str:
    return told.bytes.decode(errors="replace")


def chat_logprobs(tokens: Iterable[TokenTrace]) -> list[dict[str, Any]]:
    """The tokens of a text as a chat completion tells them; what ended the text is no part."""
    return [
        _entry(token.logprob) | {"top_logprobs": [_entry(told) for told in token.alternatives]}
        for token in tokens
        if token.logprob is not None and not token.ends
    ]


def _entry(told: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(told), "logprob": told.logprob, "bytes": list(told.bytes)}


class LegacyLogprobs:
    """The form of a completion: four lists side by side. text_offset goes on from call to call."""

    def __init__(self) -> None:
        self._offset = 0

    def add(self, tokens: Iterable[TokenTrace]) -> dict[str, list[Any]]:
        """The next tokens of the text."""
        told = [
            (token.logprob, token.alternatives)
            for token in tokens
            if token.logprob is not None and not token.ends
        ]
        texts = [_text(token) for token, _ in told]
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token, _ in told],
            "top_logprobs": [_by_text((*others, token)) for token, others in told],
            "text_offset": offsets,
        }


def _by_text(told: Iterable[TokenLogprob]) -> dict[str, float]:
    """Of tokens with the same text, such as halves of characters, the first is told."""
    found: dict[str, float] = {}
    for token in told:
        found.setdefault(_text(token), token.logprob)
    return found
