"""A checkpoint's tokenizer: chats to ids, and ids back to text as they arrive.

Imports no torch; transformers is loaded only when a `Text` is built, so `s2d check` stays quick.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from s2d_ray.errors import ModelError, RequestError
from s2d_ray.models.tool_text import (
    PROBE_MESSAGES,
    PROBE_SIGNS,
    PROBE_SYSTEM,
    PROBE_TOOL,
    as_plain_text,
    as_templates_expect,
    uses_tools,
)

REPLACEMENT = "\ufffd"

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How tokenizers with byte fallback write a byte."""


def _byte_level_alphabet() -> dict[str, int]:
    """Character -> byte, as byte-level tokenizers write bytes: printable ones as themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_level_alphabet()


def fingerprint_of(folder: Path) -> str:
    """Hash of a checkpoint's token ↔ id map; equal hashes mean that ids can be exchanged.

    Raises ModelError if tokenizer.json is missing or unreadable.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{path}: missing; a checkpoint needs a fast tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"{path}: not a tokenizer: {error}") from None
    return _fingerprint(tokenizer)


class Text:
    """The tokenizer of the checkpoint in `folder`. Raises ModelError if it cannot be loaded."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        if not (folder / "tokenizer.json").is_file():
            raise ModelError(f"{folder / 'tokenizer.json'}: missing; a fast tokenizer is needed")
        try:
            self._chat: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise ModelError(f"{folder}: the tokenizer cannot be loaded: {reason}") from None
        self.tokenizer: Tokenizer = self._chat.backend_tokenizer
        self.vocab_size: int = max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.special_token_ids: frozenset[int] = frozenset(
            token_id
            for token_id, token in self.tokenizer.get_added_tokens_decoder().items()
            if token.special
        )
        self.eos_token_ids: frozenset[int] = _eos_token_ids(folder, self._chat.eos_token_id)
        self.fingerprint: str = _fingerprint(self.tokenizer)
        self._is_byte_level = '"ByteLevel"' in json.dumps(
            json.loads(self.tokenizer.to_str())["decoder"]
        )

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it stands, behind the special tokens that the tokenizer puts first."""
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """Ids of a conversation, up to where the assistant's answer begins.

        The role `developer` is `system` by a newer name. A template that does not know functions
        gets them as plain text. Raises RequestError if the checkpoint has no chat template, or
        one that refuses the messages.
        """
        from jinja2 import TemplateError

        if self._chat.chat_template is None:
            raise RequestError(
                "messages: the model has no chat template; send a prompt to /v1/completions",
                param="messages",
            )
        chat: Sequence[Mapping[str, Any]]
        chat = [{**message, "role": _role(message["role"])} for message in messages]
        if uses_tools(chat, tools) and not self.knows_tools:
            chat, tools = as_plain_text(chat, tools, takes_system=self._takes_system), ()
        try:
            ids = self._apply_template(chat, tools, tokenize=True)
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            message = f"messages: refused by the chat template: {error}"
            raise RequestError(message, param="messages") from None
        return [int(token_id) for token_id in ids]

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the chat template shows functions, their calls and their answers."""
        try:
            shown = self._apply_template(PROBE_MESSAGES, [PROBE_TOOL], tokenize=False)
        except Exception:  # a template may fail in any way on what it does not know
            return False
        return all(sign in shown for sign in PROBE_SIGNS)

    @cached_property
    def _takes_system(self) -> bool:
        try:
            self._apply_template(PROBE_SYSTEM, (), tokenize=False)
        except Exception:  # a template may fail in any way on what it does not know
            return False
        return True

    def _apply_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        *,
        tokenize: bool,
    ) -> Any:
        return self._chat.apply_chat_template(
            as_templates_expect(messages),
            tools=list(tools) or None,
            add_generation_prompt=True,
            tokenize=tokenize,
            return_dict=False,
        )

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one token stands for, also if they are part of a character only."""
        token = self.tokenizer.id_to_token(token_id)
        if token is None or token_id in self.special_token_ids:
            return (token or "").encode()
        if self._is_byte_level:
            return bytes(_BYTE_OF.get(char, ord("?")) for char in token)
        if hex_byte := BYTE_TOKEN.fullmatch(token):
            return bytes([int(hex_byte[1], 16)])
        return token.replace("\u2581", " ").encode()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


@dataclass(frozen=True)
class Piece:
    """Text that one more token made final, and whether a stop string ended it."""

    text: str
    stopped: bool = False


class TextStream:
    """The text of one sequence as its tokens arrive: whole characters, no stop strings.

    The first stop string to be completed wins, character by character (of those completed by one
    character the longest), so the cut does not depend on how characters fall into tokens.
    stop: non-empty strings; they are looked for behind the first `min_tokens` tokens only. After
    `stopped` or `finish` the stream takes nothing more.
    """

    def __init__(self, text: Text, stop: tuple[str, ...] = (), min_tokens: int = 0) -> None:
        self.token_bytes = text.token_bytes
        self._tokenizer = text.tokenizer
        self._later_stop = stop
        self._stop: tuple[str, ...] = ()
        self._num_free = min_tokens
        self._held = ""
        self._restart()

    def push(self, token_id: int) -> Piece:
        """Take one more token; return the text that became final by it."""
        self._num_free -= 1
        if self._num_free < 0:
            self._stop = self._later_stop
        self._held += self._decode(token_id)
        cut = _first_stop(self._held, self._stop)
        if cut is not None:
            return Piece(self._drop_after(cut), stopped=True)
        return Piece(self._release(len(self._held) - _num_held(self._held, self._stop)))

    def finish(self) -> str:
        """What was held back, when the sequence ends by other means than a stop string.

        Replacement characters at the very end are dropped: they are a character cut in half.
        """
        whole = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        self._held += whole[self._num_decoded :].rstrip(REPLACEMENT)
        cut = _first_stop(self._held, self._stop)
        return self._drop_after(len(self._held) if cut is None else cut)

    def _decode(self, token_id: int) -> str:
        self._ids.append(token_id)
        try:
            chunk = self._stream.step(self._tokenizer, token_id) or ""
        except Exception:  # the library raises nothing narrower
            # Byte-fallback tokenizers re-read earlier bytes as broken when a stray byte follows;
            # what was released cannot be taken back, so the stray bytes are dropped instead.
            self._restart()
            self._ids.append(token_id)
            chunk = self._stream.step(self._tokenizer, token_id) or ""
        self._num_decoded += len(chunk)
        return chunk

    def _restart(self) -> None:
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._num_decoded = 0

    def _release(self, num_chars: int) -> str:
        released, self._held = self._held[:num_chars], self._held[num_chars:]
        return released

    def _drop_after(self, num_chars: int) -> str:
        released, self._held = self._held[:num_chars], ""
        return released


def _first_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the stop string that is completed first begins, None if there is none."""
    found = [(start + len(s), start) for s in stop if (start := text.find(s)) >= 0]
    return min(found)[1] if found else None


def _num_held(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest suffix of `text` that may still grow into a stop string."""
    longest = max((len(s) for s in stop), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        if any(s.startswith(text[-size:]) for s in stop):
            return size
    return 0


def _role(role: str) -> str:
    return "system" if role == "developer" else role


def _eos_token_ids(folder: Path, tokenizer_eos: int | None) -> frozenset[int]:
    path = folder / "generation_config.json"
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except FileNotFoundError:
        named = None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    ids = set(named) if isinstance(named, list) else {named}
    ids = (ids | {tokenizer_eos}) - {None}
    if not ids:
        raise ModelError(f"{folder}: neither generation config nor tokenizer names an end token")
    return frozenset(ids)


def _fingerprint(tokenizer: Tokenizer) -> str:
    vocab = sorted(tokenizer.get_vocab(with_added_tokens=True).items())
    return hashlib.sha256(json.dumps(vocab).encode()).hexdigest()
