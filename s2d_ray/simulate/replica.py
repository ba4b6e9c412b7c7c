"""A target replica: continuous batching as the engine does it, stretch by stretch.

A step takes what its rows cost. As long as nobody joins or ends, all steps are alike; they are one
event. Prompts are read first come, first served, in chunks: whole ones alone, a quarter beside
running texts. A round commits the mean of what rounds commit.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from s2d_ray.core.cost_model import CostModel
from s2d_ray.simulate.clock import Clock
from s2d_ray.simulate.draft import SharedDraft
from s2d_ray.simulate.request import Request

REPLAN_S = 1.0
"""While a draft is shared, a replica looks so often whether speculation pays."""

SLACK = 1e-9
"""Of a step or a token: sums of floats that should be whole."""


@dataclass(frozen=True)
class Engine:
    """What all replicas of a target have in common; see `TargetConfig`."""

    costs: CostModel
    max_batch: int
    prefill_chunk: int

    @property
    def chunk_beside(self) -> int:
        """Prompt tokens that a step of running texts reads at most."""
        return max(1, self.prefill_chunk // 4)

    def beside_s(self, tokens: float) -> float:
        """What so many prompt tokens add to a step of running texts."""
        return self.costs.prefill(tokens) - self.costs.prefill(1)

    def pace(self, num_texts: int, draft: SharedDraft | None, user: object = None) -> Pace:
        """How so many running texts go on: speculating while that writes faster, else plainly.

        user: who asks the draft, beside all others that have joined it.
        """
        plain = Pace(1.0, self.costs.forward(num_texts, 1), None)
        if draft is None:
            return plain
        forward_s = self.costs.forward(num_texts, 1 + draft.levels)
        round_s = draft.round_s(user, num_texts, forward_s) + forward_s
        if draft.tokens_per_round * plain.step_s <= round_s:
            return plain
        return Pace(draft.tokens_per_round, round_s, forward_s)


@dataclass(frozen=True)
class Pace:
    """tokens: committed per text and step. step_s: of a whole step. forward_s: the target's part of
    a round; None: plain decoding."""

    tokens: float
    step_s: float
    forward_s: float | None


@dataclass
class _Prompt:
    request: Request
    tokens_left: int


@dataclass
class _Stretch:
    """Steps that are alike. tokens: committed per text and step. prompt_tokens: read, in all."""

    began_s: float
    step_s: float
    num_steps: int
    tokens: float
    prompt_tokens: int
    speculates: bool


class Replica:
    """One replica. num_steps, num_speculated: its steps so far, and those with a proposal."""

    def __init__(
        self,
        clock: Clock,
        engine: Engine,
        draft: SharedDraft | None,
        ended: Callable[[Replica, Request], None],
    ) -> None:
        """ended: told of each request that has its last token."""
        self._clock = clock
        self._engine = engine
        self._draft = draft
        self._ended = ended
        self._waiting: deque[Request] = deque()
        self._prompts: deque[_Prompt] = deque()
        self._texts: list[tuple[float, int, Request]] = []
        self._written = 0.0
        self._num_taken = 0
        self._stretch: _Stretch | None = None
        self.num_steps = 0
        self.num_speculated = 0

    @property
    def num_ongoing(self) -> int:
        """Requests that run or wait here."""
        return len(self._waiting) + len(self._prompts) + len(self._texts)

    @property
    def outstanding_tokens(self) -> float:
        """Prompt tokens not yet read and output tokens that may yet be written, at most."""
        waiting = sum(r.arrival.prompt_tokens + r.arrival.max_tokens for r in self._waiting)
        reading = sum(p.tokens_left + p.request.arrival.max_tokens for p in self._prompts)
        writing = sum(
            end - self._written_now + r.arrival.max_tokens - r.arrival.output_tokens
            for end, _, r in self._texts
        )
        return waiting + reading + writing

    @property
    def _written_now(self) -> float:
        stretch = self._stretch
        if stretch is None:
            return self._written
        num_done = int((self._clock.now_s - stretch.began_s) / stretch.step_s + SLACK)
        return self._written + stretch.tokens * min(num_done, stretch.num_steps)

    def take(self, request: Request) -> None:
        """A request comes in. It joins the batch behind the step under way, if there is room."""
        self._waiting.append(request)
        stretch = self._stretch
        if stretch is None:
            self._plan()
        elif len(self._prompts) + len(self._texts) < self._engine.max_batch:
            passed_s = self._clock.now_s - stretch.began_s
            num_begun = max(1, math.ceil(passed_s / stretch.step_s - SLACK))
            if num_begun < stretch.num_steps:
                self._begin(replace(stretch, num_steps=num_begun))

    def _plan(self) -> None:
        """Fill the batch and begin the next stretch."""
        while self._waiting and len(self._prompts) + len(self._texts) < self._engine.max_batch:
            request = self._waiting.popleft()
            request.started_s = self._clock.now_s
            self._prompts.append(_Prompt(request, request.arrival.prompt_tokens))
        self._stretch = None
        if not self._prompts and not self._texts:
            if self._draft is not None:
                self._draft.leave(self)
            return
        self._begin(self._next_stretch())

    def _begin(self, stretch: _Stretch) -> None:
        self._stretch = stretch

        def end() -> None:
            if self._stretch is stretch:
                self._end(stretch)

        end_s = stretch.began_s + stretch.num_steps * stretch.step_s
        self._clock.at(max(end_s, self._clock.now_s), end)

    def _next_stretch(self) -> _Stretch:
        tokens, step_s, speculates = self._decode()
        now_s, engine = self._clock.now_s, self._engine
        if self._prompts:
            budget = engine.chunk_beside if self._texts else engine.prefill_chunk
            read = min(budget, sum(prompt.tokens_left for prompt in self._prompts))
            beside_s = step_s + engine.beside_s(read)
            step_s = beside_s if self._texts else engine.costs.prefill(read)
            return _Stretch(now_s, step_s, 1, tokens, read, speculates)
        num_steps = math.ceil((self._texts[0][0] - self._written) / tokens - SLACK)
        if self._draft is not None:
            num_steps = min(num_steps, math.ceil(REPLAN_S / step_s))
        return _Stretch(now_s, step_s, max(1, num_steps), tokens, 0, speculates)

    def _decode(self) -> tuple[float, float, bool]:
        """Tokens per text and seconds of a step, and whether it speculates since that pays."""
        num_texts, draft = len(self._texts), self._draft
        pace = self._engine.pace(num_texts, draft, self) if num_texts else Pace(0.0, 0.0, None)
        if draft is not None and pace.forward_s is None:
            draft.leave(self)
        elif draft is not None and pace.forward_s is not None:
            draft.join(self, num_texts, pace.forward_s)
        return pace.tokens, pace.step_s, pace.forward_s is not None

    def _end(self, stretch: _Stretch) -> None:
        """Commit a stretch, and go on."""
        self._written += stretch.tokens * stretch.num_steps
        self.num_steps += stretch.num_steps
        self.num_speculated += stretch.num_steps * stretch.speculates
        ended = self._read(stretch.prompt_tokens)
        while self._texts and self._texts[0][0] <= self._written + SLACK:
            ended.append(heapq.heappop(self._texts)[2])
        for request in ended:
            request.ended_s = self._clock.now_s
        self._plan()
        for request in ended:
            self._ended(self, request)

    def _read(self, num_tokens: int) -> list[Request]:
        """Read prompts on. -> those whose first token is the last one."""
        ended: list[Request] = []
        while self._prompts and num_tokens >= self._prompts[0].tokens_left:
            prompt = self._prompts.popleft()
            num_tokens -= prompt.tokens_left
            request = prompt.request
            request.first_s = self._clock.now_s
            if request.arrival.output_tokens == 1:
                ended.append(request)
                continue
            self._num_taken += 1
            end = self._written + request.arrival.output_tokens - 1
            heapq.heappush(self._texts, (end, self._num_taken, request))
        if self._prompts:
            self._prompts[0].tokens_left -= num_tokens
        return ended
