"""One request of a trace, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from s2d_ray.policy.grants import Grant
from s2d_ray.policy.limits import Reason


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request as it comes in. output_tokens: what the target will write, at most `max_tokens`,
    which the ledger reserves behind the prompt."""

    at_s: float
    tenant: str
    target: str
    prompt_tokens: int
    output_tokens: int
    max_tokens: int


@dataclass(slots=True)
class Request:
    """Its times in seconds, None for what has not happened.

    granted_s: by the ledger. started_s: a replica took it into its batch. first_s, ended_s: its
    first and last token. reason: of a refusal.
    """

    arrival: Arrival
    grant: Grant | None = None
    granted_s: float | None = None
    started_s: float | None = None
    first_s: float | None = None
    ended_s: float | None = None
    reason: Reason | None = None

    @property
    def wait_s(self) -> float | None:
        """From the arrival until a replica took it."""
        return None if self.started_s is None else self.started_s - self.arrival.at_s

    @property
    def ttft_s(self) -> float | None:
        """From the arrival until the first token."""
        return None if self.first_s is None else self.first_s - self.arrival.at_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time of a token behind the first one; None if there is no such token, or not yet."""
        if self.first_s is None or self.ended_s is None or self.arrival.output_tokens < 2:
            return None
        return (self.ended_s - self.first_s) / (self.arrival.output_tokens - 1)
