"""One sequence of a target: its ids, its place in the cache, and what to tell the client."""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import Protocol

from s2d_ray.core.lookup import Match, SuffixIndex
from s2d_ray.core.proposals import EMPTY, Proposal, Verdict
from s2d_ray.core.sampling import Past
from s2d_ray.engine.drawing import Draw, Drawn, Grammar
from s2d_ray.engine.guesses import Origin
from s2d_ray.engine.messages import (
    OTHER_FINGERPRINT,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Mode,
    Resume,
    TokenLogprob,
    TokenTrace,
    Usage,
)
from s2d_ray.engine.prefix_cache import Lender
from s2d_ray.engine.protocol import EMPTY_DIGEST, ProposeRow, RowStatus, extend_digest
from s2d_ray.engine.tally import Tally
from s2d_ray.errors import Unavailable
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

    def token_bytes(self, token_id: int) -> bytes: ...


OWN = Origin()
"""The target's own token."""


class Sequence:
    """A running or waiting request.

    Keys and values of ids[:num_computed] are in the cache. While decoding, at least the last id is
    not; after a guess off the spine was accepted, neither are the ids from that guess on. A
    preempted text has lost them all: once it runs again, its ids are computed in chunks like a
    prompt, and everything else it knows is as it was.

    plan: what it is drafted by now; why: the reason, for the reply. paused: no guesses in this
    round. asked: whether the draft was asked in this round; status: what it said, None if nothing.
    """

    def __init__(
        self,
        request: GenerateRequest,
        prompt_ids: list[int],
        max_length: int,
        sink: TextSink,
        eos: frozenset[int],
        grammar: Grammar | None = None,
    ) -> None:
        self.request = request
        self.ids = list(prompt_ids)
        self.num_prompt = len(prompt_ids)
        self.max_length = max_length
        sampling = request.sampling
        own_ends = frozenset() if sampling.ignore_eos else eos
        self.ends = own_ends | frozenset(sampling.stop_token_ids)
        self.grammar = grammar
        self.run: Run | None = None
        self.lender: Lender | None = None
        self.num_computed = 0
        self.num_prefill = self.num_prompt
        self.num_preemptions = 0
        self.num_lost = 0
        self.digest = extend_digest(EMPTY_DIGEST, prompt_ids)
        self.plan = request.plan
        self.why = "of the request"
        self.paused = False
        self.asked = False
        self.status: RowStatus | None = None
        self._index: SuffixIndex | None = None
        self.draft_base = 0
        self.proposal = EMPTY
        self.origins: tuple[Origin, ...] = ()
        self._sink = sink
        self.finish_reason: FinishReason | None = None
        self.tally = Tally()
        self._num_told = self.num_prompt

    def resume(self, resume: Resume) -> list[Event]:
        """Take over what another replica has told of this text. -> its end, if that is all that
        is left to tell.

        Every id goes the way of a drawn one, so grammar, half-decoded characters and half-written
        stop strings stand where they stood. Raises Unavailable if the text reads otherwise here.
        """
        text = "".join(map(self._append, resume.token_ids)) + self._ending()
        if len(text) != resume.num_chars:
            raise Unavailable("the text reads otherwise on this replica", code=OTHER_FINGERPRINT)
        self.num_prefill = self._num_told = len(self.ids)
        self.tally = Tally(resume.usage)
        return self._events("", [])

    @property
    def decoding(self) -> bool:
        """Whether tokens have been drawn."""
        return len(self.ids) > self.num_prompt

    @property
    def prefilling(self) -> bool:
        """Whether the prompt, or after a preemption all ids, must still be computed in chunks."""
        return self.num_computed < self.num_prefill

    @property
    def num_wanted_slots(self) -> int:
        """Positions of the next forward: all ids, and the proposal's deepest node."""
        return len(self.ids) + max(self.proposal.depths())

    @property
    def num_missing_slots(self) -> int:
        """What its run may still grow by."""
        return self.max_length - (self.run.num_slots if self.run else 0)

    def start(self, run: Run, num_copied: int) -> None:
        """Run, with a run of the pool whose first positions were copied from another text."""
        self.run = run
        self.num_computed = num_copied
        self.num_prefill = len(self.ids)
        self.tally.start(num_copied)

    def preempt(self) -> None:
        """Lose all that is computed, and a proposal that is not verified yet."""
        self.num_lost, self.num_computed = self.num_computed, 0
        self.proposal, self.origins = EMPTY, ()
        self.num_preemptions += 1

    @property
    def num_remaining(self) -> int:
        """Tokens that may still be written."""
        return self.max_length - len(self.ids)

    @property
    def num_outstanding(self) -> int:
        """Tokens still to compute in chunks, and those that may still be written."""
        return max(0, self.num_prefill - self.num_computed) + self.num_remaining

    @property
    def wants_proposal(self) -> bool:
        """Whether a guess could save a forward: with one token left it could not."""
        speculates = self.request.mode is not Mode.OFF and not self.plan.is_plain
        wants = speculates and not self.paused
        return not self.prefilling and wants and self.num_remaining > 1

    def match(self) -> Match | None:
        """Where the end of the text occurred before, if the plan looks for that."""
        gram = self.plan.min_match
        if gram == 0:
            return None
        if self._index is None or self._index.gram != gram:
            self._index = SuffixIndex(gram)
        return self._index.find(self.ids)

    def propose_row(self) -> ProposeRow:
        """What to ask the draft."""
        sampling = self.request.sampling
        return ProposeRow(
            draft_session=self.request.request_id,
            base=self.draft_base,
            token_ids=tuple(self.ids[self.draft_base :]),
            digest=self.digest,
            max_length=self.max_length,
            plan=self.plan,
            seed=sampling.seed,
            temperature=sampling.temperature,
            logit_bias=sampling.logit_bias,
            banned=self._banned(len(self.ids)),
            salt=self.request.cache_salt,
            tag=self.request.tag if self.request.tag.traceparent else None,
        )

    def accept_proposal(self, proposal: Proposal, origins: tuple[Origin, ...]) -> None:
        """Take a checked proposal into the next round; one origin per node."""
        self.proposal = proposal
        self.origins = origins

    def admissible(self, proposal: Proposal, longest: int) -> tuple[Proposal, tuple[int, ...]]:
        """The part of a proposal that could be committed, and which nodes it kept.

        Cut: what lies behind the budget, `longest` or an end, and what a grammar forbids.
        """
        within = proposal.within(min(longest, self.num_remaining - 1), self.ends)
        if self.grammar is None:
            return proposal.pruned(within)
        states: dict[int, Grammar] = {0: self.grammar}
        depths = proposal.depths()

        def keep(node: int) -> bool:
            token, before = proposal.tokens[node], states[proposal.parents[node]]
            num_left = self.num_remaining - depths[node + 1] + 1
            if not within(node) or not before.fits(token, num_left):
                return False
            states[node + 1] = before.after(token)
            return True

        return proposal.pruned(keep)

    def draws(self) -> list[Draw]:
        """How to draw behind the last id and behind every node of the proposal."""
        paths: list[tuple[int, ...]] = [()]
        states: list[Grammar | None] = [self.grammar]
        for token, parent in zip(self.proposal.tokens, self.proposal.parents, strict=True):
            before = states[parent]
            paths.append((*paths[parent], token))
            states.append(before and before.after(token))
        return [self._draw(path, state) for path, state in zip(paths, states, strict=True)]

    def _draw(self, path: tuple[int, ...], state: Grammar | None) -> Draw:
        position = len(self.ids) + len(path)
        num_left = self.num_remaining - len(path)
        past = self._past(path, position, state)
        return Draw(self.request.sampling, position, past, state, num_left)

    def _past(self, path: tuple[int, ...], position: int, state: Grammar | None) -> Past:
        allowed = None if state is None else state.allowed
        banned = self._banned(position)
        if not self.request.sampling.penalises:
            return Past(banned=banned, allowed=allowed)
        prompt, output = self.ids[: self.num_prompt], self.ids[self.num_prompt :]
        return Past(prompt, [*output, *path], banned, allowed)

    def _banned(self, position: int) -> tuple[int, ...]:
        """Ids that must not stand at `position`: an end, while the text is too short."""
        too_short = position < self.num_prompt + self.request.sampling.min_tokens
        return tuple(self.ends) if too_short else ()

    def emit(self, verdict: Verdict, drawn: Items[Drawn]) -> list[Event]:
        """Commit a round's tokens in order; what follows an end is dropped and counted nowhere.

        drawn: [1 + nodes], the draws behind the last id and every node of the proposal.
        """
        self.tally.begin_round(len(self.proposal.tokens), decoding=self.decoding)
        num_held = len(self.ids) + _num_on_spine(self.proposal, verdict)
        text: list[str] = []
        traces: list[TokenTrace] = []
        for index, row in enumerate((0, *verdict.path)):
            node = verdict.path[index] - 1 if index < len(verdict.path) else None
            origin = OWN if node is None else self.origins[node]
            if origin.drafted_by is not None and origin.rank is not None:
                self.tally.accept(origin.drafted_by, origin.rank)
            piece = self._append(drawn[row].token)
            text.append(piece)
            if self.request.shows_tokens:
                traces.append(self._trace(drawn[row], piece, origin))
            if self.finish_reason is not None:
                break
        self.tally.end_round(max(self.proposal.depths()))
        self.proposal, self.origins = EMPTY, ()
        self.num_computed = min(num_held, len(self.ids) - 1)
        return self._events("".join(text) + self._ending(), traces)

    def _trace(self, drawn: Drawn, piece: str, origin: Origin) -> TokenTrace:
        logprob = None
        if drawn.logprob is not None:
            logprob = self._logprob(drawn.token, drawn.logprob)
        return TokenTrace(
            drawn.token,
            piece,
            origin.drafted_by,
            origin.confidence,
            self.tally.num_rounds,
            origin.rank,
            logprob,
            tuple(self._logprob(token, value) for token, value in drawn.alternatives),
            drawn.token in self.ends,
        )

    def _logprob(self, token: int, value: float) -> TokenLogprob:
        return TokenLogprob(token, self._sink.token_bytes(token), value)

    def _append(self, token: int) -> str:
        """Add one token and see whether it ends the text. -> text that became final."""
        self.ids.append(token)
        self.digest = extend_digest(self.digest, (token,))
        if self.grammar is not None:
            self.grammar = self.grammar.after(token)
        if token in self.ends:
            self.finish_reason = FinishReason.STOP
            return ""
        piece = self._sink.push(token)
        if piece.stopped or (self.grammar is not None and self.grammar.finished):
            self.finish_reason = FinishReason.STOP
        elif self.num_remaining <= 0:
            self.finish_reason = FinishReason.LENGTH
        return piece.text

    def _ending(self) -> str:
        """What was held back, once the text has ended."""
        return "" if self.finish_reason is None else self._sink.finish()

    def _events(self, text: str, traces: list[TokenTrace]) -> list[Event]:
        events: list[Event] = []
        if not (text or traces or self.finish_reason):
            return events
        if text or traces:
            ids = tuple(self.ids[self._num_told :])
            self._num_told = len(self.ids)
            events.append(Delta(text, tuple(traces), ids, *self.tally.untold()))
        if self.finish_reason is not None:
            events.append(Finished(self.finish_reason, self.usage(), self.plan, self.why))
        return events

    def usage(self) -> Usage:
        """Counts so far."""
        return self.tally.usage(self.num_prompt, len(self.ids) - self.num_prompt)


def _num_on_spine(proposal: Proposal, verdict: Verdict) -> int:
    """Accepted nodes whose keys and values stay in the cache."""
    common = 0
    for accepted, held in zip(verdict.path, proposal.spine(), strict=False):
        if accepted != held:
            break
        common += 1
    return common
