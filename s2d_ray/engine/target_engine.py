"""What a replica needs of whatever writes its texts. Our own engine is `assemble.Target`.

Another engine can stand behind a replica by offering these calls; it owes the same promise: a text
depends on request and seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.guesses import By
from s2d_ray.engine.messages import Event, GenerateRequest, Prompt, Tokens

Publish = Callable[[Event], None]


@dataclass(frozen=True)
class Figures:
    """Of one engine, for metrics; drafted, accepted: see `Guesses`.

    num_waiting, num_running: sequences. kv_tokens: slots by state: used by running texts, kept for
    common prefixes, total. calibration_errors: see `Guesses.errors`.
    plans: in force, by class of task and load (texts that it is below).
    """

    num_waiting: int = 0
    num_running: int = 0
    kv_tokens: Mapping[str, int] = field(default_factory=dict)
    drafted: Mapping[By, int] = field(default_factory=dict)
    accepted: Mapping[By, int] = field(default_factory=dict)
    calibration_errors: Mapping[int, float] = field(default_factory=dict)
    plans: Mapping[str, Mapping[int, Plan]] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineStatus:
    """State of one engine.

    bitwise_exact: whether this host keeps texts equal bit for bit. queue_depth: waiting and running
    sequences. outstanding_tokens: that these have still to read and, at most, to write.
    silent_s: time since its thread last moved, infinite if the thread has died.
    fingerprint: engines of the same one write the same, see `models.fingerprint`; empty: none do.
    control: plans in force and the measured benefit, see `Steering.state`.
    """

    bitwise_exact: bool
    queue_depth: int
    outstanding_tokens: int
    silent_s: float
    counters: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    control: dict[str, Any] = field(default_factory=dict)
    figures: Figures = Figures()


class TargetEngine(Protocol):
    """Writes the texts of one target model."""

    def prepare(self, request: GenerateRequest) -> Callable[[Publish], None]:
        """Check and tokenise a request; may take long, so call it off the event loop.

        -> the call that queues it; its events, a refusal included, then go to `Publish`, which runs
        on the engine's thread and must not block. Raises RequestError if it cannot be served.
        """

    def abort(self, request_id: str) -> None:
        """Forget a queued request before the next round; its events stop."""

    def tokenize(self, prompt: Prompt) -> Tokens:
        """The ids of a prompt. Raises RequestError if it has none."""

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of some ids. Raises RequestError for an id outside the vocabulary."""

    def status(self) -> EngineStatus:
        """A snapshot; never blocks."""

    def stop(self) -> None:
        """End after the round it is in."""
