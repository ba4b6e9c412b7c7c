"""One sequence of a target: its ids, its place in the cache, and what to tell the client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from s2d_ray.core.proposals import EMPTY, Proposal
from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Mode,
    TokenTrace,
    Usage,
)
from s2d_ray.engine.protocol import EMPTY_DIGEST, ProposeRow, RowReply, extend_digest
from s2d_ray.models.kv_pool import Run


class Piece(Protocol):
    """What a token added to the text, and whether a stop string ended it."""

    @property
    def text(self) -> str: ...

    @property
    def stopped(self) -> bool: ...


class TextSink(Protocol):
    """Turns the ids of one sequence into final text; see `models.text.TextStream`."""

    def push(self, token_id: int) -> Piece: ...

    def finish(self) -> str: ...


@dataclass(frozen=True)
class Emitted:
    """One token of a round, in order."""

    token: int
    drafted_by: int | None
    confidence: float | None


class Sequence:
    """A running or waiting request. Invariant while decoding: num_computed == len(ids) - 1."""

    def __init__(
        self, request: GenerateRequest, prompt_ids: list[int], max_length: int, sink: TextSink
    ) -> None:
        self.request = request
        self.ids = list(prompt_ids)
        self.num_prompt = len(prompt_ids)
        self.max_length = max_length
        self.run: Run | None = None
        self.num_computed = 0
        self.digest = extend_digest(EMPTY_DIGEST, prompt_ids)
        self.draft_base = 0
        self.proposal = EMPTY
        self._reply: RowReply | None = None
        self._sink = sink
        self.finish_reason: FinishReason | None = None
        self.num_rounds = 0
        self.num_drafted = 0
        self.accepted_by: dict[int, int] = {}
        self.num_misses = 0

    @property
    def decoding(self) -> bool:
        """Whether the prompt is computed and tokens are being drawn."""
        return len(self.ids) > self.num_prompt

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be written."""
        return self.max_length - len(self.ids)

    @property
    def wants_proposal(self) -> bool:
        """Whether a guess could save a forward: with one token left it could not."""
        speculates = self.request.mode is not Mode.OFF and self.request.plan.max_proposal > 0
        return self.decoding and speculates and self.num_remaining > 1

    def propose_row(self) -> ProposeRow:
        """What to ask the draft."""
        sampling = self.request.sampling
        return ProposeRow(
            draft_session=self.request.request_id,
            base=self.draft_base,
            token_ids=tuple(self.ids[self.draft_base :]),
            digest=self.digest,
            max_length=self.max_length,
            plan=self.request.plan,
            seed=sampling.seed,
            temperature=sampling.temperature,
        )

    def accept_proposal(self, proposal: Proposal, reply: RowReply) -> None:
        """Take a checked proposal into the next round."""
        self.proposal = proposal
        self._reply = reply
        self.num_drafted += len(proposal.tokens)

    def emit(self, tokens: tuple[int, ...], num_accepted: int, eos: frozenset[int]) -> list[Event]:
        """Commit a round's tokens in order; what follows an end is dropped and counted nowhere."""
        self.num_rounds += self.decoding
        text: list[str] = []
        traces: list[TokenTrace] = []
        for index, token in enumerate(tokens):
            emitted = self._attribute(index, token, index < num_accepted)
            if emitted.drafted_by is not None:
                self.accepted_by[emitted.drafted_by] = (
                    self.accepted_by.get(emitted.drafted_by, 0) + 1
                )
            piece = self._append(token, eos)
            text.append(piece)
            traces.append(
                TokenTrace(token, piece, emitted.drafted_by, emitted.confidence, self.num_rounds)
            )
            if self.finish_reason is not None:
                break
        self.proposal, self._reply = EMPTY, None
        self.num_computed = len(self.ids) - 1
        return self._events("".join(text), traces)

    def _attribute(self, index: int, token: int, accepted: bool) -> Emitted:
        if not accepted or self._reply is None:
            return Emitted(token, None, None)
        return Emitted(token, self._reply.drafted_by[index], self._reply.confidences[index])

    def _append(self, token: int, eos: frozenset[int]) -> str:
        """Add one token and see whether it ends the text. -> text that became final."""
        self.ids.append(token)
        self.digest = extend_digest(self.digest, (token,))
        if token in eos:
            self.finish_reason = FinishReason.STOP
            return ""
        piece = self._sink.push(token)
        if piece.stopped:
            self.finish_reason = FinishReason.STOP
        elif self.num_remaining <= 0:
            self.finish_reason = FinishReason.LENGTH
        return piece.text

    def _events(self, text: str, traces: list[TokenTrace]) -> list[Event]:
        if self.finish_reason is not None:
            text += self._sink.finish()
        shown = tuple(traces) if self.request.shows_tokens else ()
        events: list[Event] = [Delta(text, shown)] if text or shown else []
        if self.finish_reason is not None:
            events.append(Finished(self.finish_reason, self.usage()))
        return events

    def usage(self) -> Usage:
        """Counts so far."""
        return Usage(
            prompt_tokens=self.num_prompt,
            completion_tokens=len(self.ids) - self.num_prompt,
            rounds=self.num_rounds,
            drafted_tokens=self.num_drafted,
            accepted_tokens=sum(self.accepted_by.values()),
            accepted_by_submodel=dict(sorted(self.accepted_by.items())),
            draft_misses=self.num_misses,
        )
