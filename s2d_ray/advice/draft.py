"""What the shared draft is worth: to a target, and against a draft of each replica's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from s2d_ray.advice.capacity import Carrier, Guessing

CLOSE = 1e-4
"""To which an acceptance is found."""

HIGHEST = 0.99


def accepted_share(guessing: Guessing) -> float:
    """Of all guesses, where each is behind one that must be right too."""
    levels = range(1, guessing.levels + 1)
    return sum(guessing.acceptance**level for level in levels) / guessing.levels


def acceptance_of(share: float, levels: int) -> float:
    """The acceptance that gives this share of accepted guesses, at most `HIGHEST`."""
    return _rising(lambda acceptance: accepted_share(Guessing(levels, acceptance)) >= share)


def worth(carrier: Carrier) -> float:
    """Tokens per second of a replica that has the draft alone, over plain decoding; 1 where it
    decodes plainly."""
    plain, paces = carrier.plain, carrier.paces
    return paces[0].tokens * plain.step_s / paces[0].step_s if paces else 1.0


def break_even(carrier: Carrier) -> float | None:
    """The acceptance above which speculation pays for a replica that has the draft alone; None if
    there is none, or no draft."""
    guessing = carrier.guessing
    if guessing is None:
        return None

    def pays(acceptance: float) -> bool:
        draft = replace(guessing, acceptance=acceptance).draft(carrier.engine.costs)
        return carrier.engine.pace(carrier.texts, draft).forward_s is not None

    return _rising(pays) if pays(HIGHEST) else None


def _rising(holds: Callable[[float], bool]) -> float:
    """The least acceptance from which on something holds."""
    low, high = 0.0, HIGHEST
    while high - low > CLOSE:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class Sharing:
    """Replicas that speculate, with drafts of their own and with shared ones.

    carried: replicas that one draft carries, at most `MOST_USERS`.
    private, shared: drafts. cache_mib: of one draft.
    step_s: of a draft, for a guess of one text: private with a replica's own rows in a step,
    shared with the rows of as many replicas as share it.
    """

    replicas: int
    carried: int
    private: int
    shared: int
    cache_mib: int
    private_guess_s: float
    shared_guess_s: float

    @property
    def saved_drafts(self) -> int:
        """That sharing does without."""
        return self.private - self.shared


def sharing_of(
    carriers: Mapping[str, Carrier], replicas: Mapping[str, int], cache_mib: int
) -> Sharing | None:
    """Of all targets for which speculation pays; None if there is none.

    How many replicas a draft carries is counted by the target for which it carries fewest.
    """
    using = {name: c for name, c in carriers.items() if c.paces and replicas[name]}
    if not using:
        return None
    carried = min(len(carrier.paces) for carrier in using.values())
    number = sum(replicas[name] for name in using)
    drafts = math.ceil(number / carried)
    together = math.ceil(number / drafts)
    return Sharing(
        number,
        carried,
        number,
        drafts,
        cache_mib,
        _mean_guess_s(using, replicas, 1),
        _mean_guess_s(using, replicas, together),
    )


def _mean_guess_s(using: Mapping[str, Carrier], replicas: Mapping[str, int], number: int) -> float:
    total = sum(replicas[name] for name in using)
    return sum(replicas[name] * _guess_s(using[name], number) for name in using) / total


def _guess_s(carrier: Carrier, number: int) -> float:
    """Draft time of a guess where so many replicas share a draft: a step, over the rows that are
    in it in the mean."""
    pace = carrier.paces[number - 1]
    assert carrier.guessing is not None
    assert pace.forward_s is not None
    proposal_s = pace.step_s - pace.forward_s
    rows = max(1.0, number * proposal_s / pace.step_s) * carrier.texts
    return proposal_s / carrier.guessing.levels / rows
