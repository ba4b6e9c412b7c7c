"""JSON grammars over a target's tokens: what may come next, and whether the budget still suffices.

A `GrammarState` belongs to one text and never changes; a token leads to another state, so states
along a proposal are walked before the forward and only a commit moves the sequence. Matching is
`llguidance`'s; the budget is ours: a token fits if the text can still be closed behind it.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from s2d_ray.core.params import JsonFormat
from s2d_ray.errors import RequestError
from s2d_ray.models.closing import Lexer, continues, shortest_closing
from s2d_ray.models.text import Text

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

ANY_OBJECT = json.dumps({"type": "object"})

# Line breaks and indentation as models write them, but no endless run of them. A schema that says
# oneOf is read as anyOf: exclusive choice cannot be decided from the left.
_LOOSE: JsonCompileOptions = {"whitespace_pattern": r"[ \n]{0,12}", "coerce_one_of": True}
_COMPACT: JsonCompileOptions = {"whitespace_flexible": False, "coerce_one_of": True}


class Vocabulary:
    """What all grammars of one target share: its tokens as bytes."""

    def __init__(self, text: Text, num_ids: int) -> None:
        """num_ids: size of the target's score rows; ids without a token are never allowed."""
        self.num_ids = num_ids
        self.eos_token_ids = text.eos_token_ids
        self.tokenizer = LLTokenizer(
            text.tokenizer.to_str(), n_vocab=num_ids, eos_token=sorted(text.eos_token_ids)
        )
        plain = (i for i in range(text.vocab_size) if i not in text.special_token_ids)
        self._token_bytes = {token_id: text.token_bytes(token_id) for token_id in plain}
        self._token_of = {
            data: token_id for token_id, data in reversed(self._token_bytes.items()) if data
        }
        self._longest = max(map(len, self._token_of), default=0)
        self.byte_tokens = {
            data[0]: token for data, token in self._token_of.items() if len(data) == 1
        }

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes of a token; none for a special one."""
        return self._token_bytes.get(token_id, b"")

    def spell(self, data: bytes) -> list[int] | None:
        """The fewest tokens that spell `data`, None if no tokens do."""
        best: list[tuple[int, list[int]] | None] = [(0, [])]
        for end in range(1, len(data) + 1):
            ways = []
            for start in range(max(0, end - self._longest), end):
                before, token = best[start], self._token_of.get(data[start:end])
                if before is not None and token is not None:
                    ways.append((before[0] + 1, [*before[1], token]))
            best.append(min(ways, default=None))
        whole = best[-1]
        return None if whole is None else whole[1]

    def start(self, wanted: JsonFormat) -> GrammarState:
        """The state before the first token. Raises RequestError for a schema that is refused."""
        schema = ANY_OBJECT if wanted.schema is None else wanted.schema
        loose, compact = self._matcher(schema, _LOOSE), self._matcher(schema, _COMPACT)
        state = GrammarState(self, loose, compact, Lexer())
        _ = state.closing  # searched here, not later on the engine's thread
        return state

    def _matcher(self, schema: str, options: JsonCompileOptions) -> LLMatcher:
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, defaults=options)
            matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
            reason = matcher.get_error() if matcher.is_error() else ""
        except ValueError as error:
            reason = str(error)
        if reason:
            first_line = reason.strip().partition("\n")[0]
            raise RequestError(f"response_format: schema refused: {first_line}", "response_format")
        return matcher


class GrammarState:
    """A JSON text so far.

    compact: a matcher that has read the same text without white space, for closings; without one
        the text cannot be closed.
    bound: bytes that complete the text, perhaps not the fewest.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        matcher: LLMatcher,
        compact: LLMatcher | None,
        lexer: Lexer,
        bound: bytes | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._compact = compact
        self._lexer = lexer
        self._bound = self._search() if bound is None else bound
        self._next: dict[int, GrammarState] = {}

    @cached_property
    def allowed(self) -> Tensor:
        """[vocab] bool, the tokens that the grammar permits next."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        bits = np.unpackbits(mask, bitorder="little")[: self._vocabulary.num_ids]
        return torch.from_numpy(bits.astype(bool))

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing but its end can follow."""
        return self._matcher.is_stopped()

    @cached_property
    def closing(self) -> list[int] | None:
        """The fewest tokens that spell the shortest completion, None if none was found."""
        ways = [way for way in (self._search(), self._bound) if way is not None]
        spelled = [tokens for way in ways if (tokens := self._vocabulary.spell(way)) is not None]
        return min(spelled, key=len, default=None)

    @property
    def way_out(self) -> int:
        """The token that brings the text nearest to its end; the end itself once it is complete.

        Meant for a text that can be closed.
        """
        return self.closing[0] if self.closing else min(self._vocabulary.eos_token_ids)

    def after(self, token_id: int) -> GrammarState:
        """The state behind a token that is allowed."""
        if token_id in self._vocabulary.eos_token_ids:
            return self
        if token_id not in self._next:
            self._next[token_id] = self._step(token_id)
        return self._next[token_id]

    def _step(self, token_id: int) -> GrammarState:
        vocabulary = self._vocabulary
        matcher = self._matcher.deep_copy()
        matcher.consume_token(token_id)
        lexer, data = self._lexer.read(vocabulary.bytes_of(token_id))
        compact = self._compact_behind(data)
        bound = self._bound
        if bound is not None and bound.startswith(data):
            bound = bound[len(data) :]
        elif compact is None or not continues(compact, bound or b"", vocabulary.byte_tokens):
            bound = None
        return GrammarState(vocabulary, matcher, compact, lexer, bound)

    def _compact_behind(self, data: bytes) -> LLMatcher | None:
        """None if a token mixes white space with what no token spells alone."""
        spelling = self._vocabulary.spell(data)
        if self._compact is None or spelling is None:
            return None
        compact = self._compact.deep_copy()
        compact.consume_tokens(spelling)
        return compact

    def fits(self, token_id: int, num_left: int) -> bool:
        """Whether the text can be completed if `token_id` is one of the `num_left` tokens left."""
        if not bool(self.allowed[token_id]):
            return False
        return self.after(token_id).closes_within(num_left - 1)

    def closes_within(self, num_left: int) -> bool:
        """Whether `num_left` more tokens can complete the text."""
        if self._bound is not None and len(self._bound) <= num_left:
            return True  # a token spells one byte at least
        return self.closing is not None and len(self.closing) <= num_left

    def _search(self) -> bytes | None:
        if self._compact is None:
            return None
        return shortest_closing(self._compact, self._lexer, self._vocabulary.byte_tokens)
