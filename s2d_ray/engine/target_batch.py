"""The batch of a target: continuous batching and verification as a state machine.

Requests, replies and drawn tokens go in; propose calls, steps and events come out. It knows no
model, no thread, no clock and no Ray: `target_loop.py` drives it. One round is four calls one can
read aloud: ask → take_reply → plan → commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from s2d_ray.core.params import SamplingParams
from s2d_ray.core.proposals import verify
from s2d_ray.engine.drawing import Drawn, Grammar
from s2d_ray.engine.guesses import Guesses
from s2d_ray.engine.messages import (
    OTHER_FINGERPRINT,
    Event,
    GenerateRequest,
    Resume,
    Started,
)
from s2d_ray.engine.proposing import Proposing
from s2d_ray.engine.protocol import ProposeCall, ProposeReply
from s2d_ray.engine.schedule import Schedule
from s2d_ray.engine.sequence import Sequence, TextSink
from s2d_ray.engine.step import Round, Step
from s2d_ray.errors import RequestError, Unavailable
from s2d_ray.models.kv_pool import RunAllocator


@dataclass(frozen=True)
class Limits:
    """What one replica takes; see `config.TargetConfig`."""

    max_context: int
    default_max_tokens: int
    max_batch: int
    max_waiting: int
    prefill_chunk: int
    vocab_size: int
    prefix_cache: bool = False


class TargetBatch:
    """Sequences of one target replica. `counters` are the replica's own, since its start."""

    def __init__(
        self,
        limits: Limits,
        allocator: RunAllocator,
        eos_token_ids: frozenset[int],
        make_sink: Callable[[SamplingParams], TextSink],
        replica: str,
        fingerprint: str = "",
        guesses: Guesses | None = None,
    ) -> None:
        """guesses: where to count what becomes of them."""
        self.limits = limits
        self.guesses = guesses or Guesses()
        self._eos = eos_token_ids
        self._make_sink = make_sink
        self.fingerprint = fingerprint
        self.counters: Counter[str] = Counter()
        self._proposing = Proposing(replica, limits.vocab_size, self.counters)
        self._schedule = Schedule(
            allocator,
            self.counters,
            max_batch=limits.max_batch,
            prefix_cache=limits.prefix_cache,
        )

    @property
    def queue_depth(self) -> int:
        """Waiting and running sequences."""
        return len(self._schedule)

    @property
    def outstanding_tokens(self) -> int:
        """Tokens that waiting and running sequences have still to compute and may still write."""
        return sum(sequence.num_outstanding for sequence in self._schedule)

    @property
    def num_waiting(self) -> int:
        """Waiting sequences."""
        return len(self._schedule.waiting)

    @property
    def num_held_blocks(self) -> int:
        """Blocks of the prefix cache that running texts may take at any time."""
        return self._schedule.num_held_blocks

    @property
    def num_used_blocks(self) -> int:
        """Blocks of running texts."""
        return self._schedule.num_used_blocks

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return self._schedule.num_blocks

    @property
    def running(self) -> list[Sequence]:
        """Texts of the batch, the oldest first."""
        return self._schedule.running

    @property
    def has_closed_sessions(self) -> bool:
        """Whether the draft has not been told yet that some sessions ended."""
        return self._proposing.has_closed_sessions

    def _max_length(self, request: GenerateRequest, num_prompt: int) -> int:
        """Longest prompt + output. Raises RequestError if the prompt leaves no room for a token."""
        limits = self.limits
        if num_prompt == 0:
            raise RequestError("the prompt is empty", param=request.prompt_field)
        if num_prompt >= limits.max_context:
            raise RequestError(
                f"the prompt has {num_prompt} tokens; this target takes at most "
                f"{limits.max_context - 1}, so that one can be written",
                param=request.prompt_field,
                code="context_length_exceeded",
            )
        wanted = num_prompt + (request.sampling.max_tokens or limits.default_max_tokens)
        return min(wanted, limits.max_context)

    def add(
        self, request: GenerateRequest, prompt_ids: list[int], grammar: Grammar | None = None
    ) -> list[Event]:
        """Queue a request. -> its first events, all of them if it resumes a text that has ended.

        grammar: before the first token. Raises RequestError (too long), or Unavailable: the queue
        is full, or the text was begun by a replica that writes differently.
        """
        max_length = self._max_length(request, len(prompt_ids))
        if not self._schedule.fits(max_length):
            raise RequestError(
                f"prompt and max_tokens need {max_length} tokens of cache; the replica holds fewer",
                param="max_tokens",
            )
        if self.queue_depth >= self.limits.max_batch + self.limits.max_waiting:
            raise Unavailable("this target's queue is full; try again", code="queue_full")
        _check_closing(grammar, max_length - len(prompt_ids))
        sink = self._make_sink(request.sampling)
        sequence = Sequence(request, prompt_ids, max_length, sink, self._eos, grammar)
        started = Started(len(prompt_ids), tuple(prompt_ids), self.fingerprint)
        ending = self._resume(sequence, request.resume) if request.resume else []
        if sequence.finish_reason is None:
            self._schedule.add(sequence)
        self.counters["requests"] += 1
        return [started, *ending]

    def _resume(self, sequence: Sequence, resume: Resume) -> list[Event]:
        if resume.fingerprint != self.fingerprint:
            raise Unavailable(
                "this replica would go on with the text differently", code=OTHER_FINGERPRINT
            )
        self.counters["resumed"] += 1
        return sequence.resume(resume)

    def abort(self, request_id: str) -> None:
        """Forget a request, wherever it is; its blocks are free at once."""
        for sequence in self._schedule:
            if sequence.request.request_id == request_id:
                self.counters["aborted"] += 1
                self._retire(sequence)

    def fail_all(self) -> list[str]:
        """Drop every sequence after a failed forward. -> their request ids."""
        dropped = list(self._schedule)
        for sequence in dropped:
            self._retire(sequence, trusted=False)
        return [sequence.request.request_id for sequence in dropped]

    def give_way(self, step: Step) -> str | None:
        """Take back a step that memory did not suffice for; its copies have been made.

        The youngest text is preempted, and runs again once another has ended. -> the id of one that
        ran alone and is dropped.
        """
        self.counters["out_of_memory"] += 1
        for sequence, num_computed in step.packed:
            sequence.num_computed = num_computed
        preempted = self._schedule.give_way()
        if preempted is not None:
            self._proposing.pause(preempted)
            return None
        [alone] = self._schedule.running
        self._retire(alone, trusted=False)
        return alone.request.request_id

    def ask(self, draft_available: bool) -> ProposeCall | None:
        """This round's proposals: tier 0's, and the call for the draft's; see `Proposing`."""
        return self._proposing.ask(self._schedule.running, draft_available)

    @property
    def asked_forced(self) -> bool:
        """Whether the call just made carries a forced row."""
        return self._proposing.asked_forced

    def take_reply(self, reply: ProposeReply | None) -> None:
        """Take what the draft answered; anything unusable means plain decoding this round."""
        self._proposing.take_reply(reply)

    def plan(self) -> Step | None:
        """The next packed forward over decoding rows, proposals and a chunk of prompt."""
        step = Step()
        for preempted in self._schedule.make_room(step.copies):
            self._proposing.pause(preempted)
        self._schedule.admit(step.copies)
        budget = self._prefill_budget()
        for sequence in self._schedule.running:
            first = sequence.num_computed
            if not sequence.prefilling:
                step.pack(sequence, sequence.ids[first:], sequence.draws())
            elif budget > 0:
                tokens = sequence.ids[first : first + budget]
                budget -= len(tokens)
                complete = first + len(tokens) == sequence.num_prefill
                step.has_prompts = True
                step.pack(sequence, tokens, sequence.draws() if complete else [])
                sequence.num_computed += len(tokens)
        if not step.token_ids:
            return None
        self._count(step)
        return step

    def _prefill_budget(self) -> int:
        """Prompt tokens of the next forward; few beside running texts, so as not to stall them."""
        chunk = self.limits.prefill_chunk
        beside = any(not sequence.prefilling for sequence in self._schedule.running)
        return max(1, chunk // 4) if beside else chunk

    def _count(self, step: Step) -> None:
        self.counters["forwards"] += 1
        self.counters["forward_rows"] += len(step.token_ids)
        self.counters["forward_sequences"] += len(step.segments)
        self.counters["shared_forwards"] += len(step.segments) > 1
        self.counters["largest_batch"] = max(self.counters["largest_batch"], len(step.segments))

    def commit(self, step: Step, drawn: list[Drawn]) -> list[tuple[str, Event]]:
        """Verify every proposal against the target's own draws. -> (request id, event)."""
        events: list[tuple[str, Event]] = []
        start = 0
        for sequence, num_wanted in step.drawing:
            own = drawn[start : start + num_wanted]
            start += num_wanted
            verdict = verify(sequence.proposal, [each.token for each in own])
            proposal, origins = sequence.proposal, sequence.origins
            num_drafted = len(proposal.tokens)
            before = sequence.tally.accepted_by_rank.copy()
            if len(sequence.ids) == sequence.num_prefill:
                self._schedule.publish(sequence)
            was_decoding, num_before = sequence.decoding, len(sequence.ids)
            told = sequence.emit(verdict, own)
            ranks = sequence.tally.accepted_by_rank - before
            num_accepted = ranks.total()
            num_committed = len(sequence.ids) - num_before
            if num_drafted:
                self.guesses.take(sequence.request, proposal, origins, verdict.path, num_committed)
            self.counters["output_tokens"] += num_committed
            if was_decoding:
                self.counters["rounds"] += 1
                step.rounds.append(Round(sequence, num_drafted, num_accepted, num_committed))
            self.counters["drafted_tokens"] += num_drafted
            self.counters["accepted_tokens"] += num_accepted
            self.counters.update({f"accepted_rank_{rank}": n for rank, n in ranks.items()})
            if num_drafted:
                self.counters[f"accepted_{num_accepted}"] += 1
            self._proposing.learn(sequence, num_drafted, num_accepted)
            events += [(sequence.request.request_id, event) for event in told]
            if sequence.finish_reason is not None:
                self._retire(sequence)
        return events

    def _retire(self, sequence: Sequence, *, trusted: bool = True) -> None:
        """Forget a sequence; trusted: whether what it computed may be lent to others."""
        self._schedule.remove(sequence, trusted=trusted)
        self._proposing.close(sequence)


def _check_closing(grammar: Grammar | None, num_left: int) -> None:
    """Raise RequestError if no text of the grammar is short enough."""
    if grammar is None:
        return
    if grammar.closing is None:
        raise RequestError(
            "response_format: no short text fits this schema; make it smaller", "response_format"
        )
    if len(grammar.closing) > num_left:
        raise RequestError(
            f"the shortest text that fits the schema has {len(grammar.closing)} tokens, and only "
            f"{num_left} may be written",
            param="max_tokens",
        )
