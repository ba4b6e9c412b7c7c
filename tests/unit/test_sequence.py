"""One sequence: what a round commits, what it drops, and how it is counted and told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.core.proposals import Proposal
from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Mode,
    TextPrompt,
)
from s2d_ray.engine.protocol import EMPTY_DIGEST, RowReply, RowStatus, extend_digest
from s2d_ray.engine.sequence import Sequence

END = frozenset({0})
PROMPT = [5, 6, 7]


@dataclass(frozen=True)
class Shown:
    text: str
    stopped: bool = False


class Letters:
    """A sink that shows token 1 as "a", 2 as "b" …, and stops behind a letter."""

    def __init__(self, stop: str = "") -> None:
        self._stop = stop

    def push(self, token_id: int) -> Shown:
        letter = chr(ord("a") + token_id - 1)
        return Shown("", stopped=True) if letter == self._stop else Shown(letter)

    def finish(self) -> str:
        return "."


def sequence(
    max_length: int = 20,
    *,
    stop: str = "",
    mode: Mode = Mode.AUTO,
    plan: Plan | None = None,
    trace: bool = True,
) -> Sequence:
    request = GenerateRequest("r", TextPrompt(""), SamplingParams(1), plan or Plan(), mode, trace)
    return Sequence(request, PROMPT, max_length, Letters(stop))


def decoding(**changes: object) -> Sequence:
    """A sequence whose prompt has been computed and answered with token 1."""
    fresh = sequence(**changes)  # type: ignore[arg-type]
    fresh.emit((1,), 0, END)
    return fresh


def propose(running: Sequence, *tokens: int) -> None:
    count = len(tokens)
    exits, confidences = (4, 8, 12, 4)[:count], (0.5, 0.6, 0.7, 0.8)[:count]
    reply = RowReply("r", len(running.ids), RowStatus.OK, tokens, exits, confidences)
    running.accept_proposal(Proposal.chain(tokens), reply)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_the_prompt_s_own_token_is_no_round() -> None:
    running = decoding()
    assert running.ids == [*PROMPT, 1]
    assert running.num_rounds == 0
    assert running.decoding
    assert running.num_computed == len(PROMPT)


def test_accepted_tokens_name_their_sub_model_and_the_last_is_the_target_s() -> None:
    running = decoding()
    propose(running, 2, 3, 9)
    (delta,) = running.emit((2, 3, 4), 2, END)
    assert isinstance(delta, Delta)
    assert [(t.token_id, t.drafted_by, t.confidence, t.round) for t in delta.tokens] == [
        (2, 4, 0.5, 1),
        (3, 8, 0.6, 1),
        (4, None, None, 1),
    ]
    usage = running.usage()
    assert (usage.drafted_tokens, usage.accepted_tokens) == (3, 2)
    assert usage.accepted_by_submodel == {4: 1, 8: 1}
    assert usage.rounds == 1


def test_a_proposal_serves_one_round_only() -> None:
    running = decoding()
    propose(running, 2, 3)
    running.emit((2, 3, 4), 2, END)
    running.emit((5,), 1, END)
    assert running.usage().accepted_tokens == 2
    assert running.proposal.tokens == ()


@pytest.mark.parametrize(
    ("changes", "reason", "num_kept", "text"),
    [
        ({"stop": "c"}, FinishReason.STOP, 2, "b."),
        ({"max_length": len(PROMPT) + 3}, FinishReason.LENGTH, 2, "bc."),
    ],
)
def test_what_follows_an_end_is_dropped(
    changes: dict[str, object], reason: FinishReason, num_kept: int, text: str
) -> None:
    running = decoding(**changes)
    propose(running, 2, 3, 4, 5)
    events = running.emit((2, 3, 4, 5, 6), 4, END)
    assert running.finish_reason is reason
    assert text_of(events) == text
    assert running.ids == [*PROMPT, 1, 2, 3]
    assert running.usage().completion_tokens == 1 + num_kept
    assert running.usage().accepted_tokens == num_kept
    assert isinstance(events[-1], Finished)


def test_an_end_token_counts_but_is_not_shown() -> None:
    running = decoding()
    propose(running, 2, 0, 3)
    events = running.emit((2, 0, 3, 4), 3, END)
    assert running.finish_reason is FinishReason.STOP
    assert text_of(events) == "b."
    assert running.usage().completion_tokens == 3
    assert running.usage().accepted_tokens == 2


def test_the_end_token_in_the_last_place_is_a_stop_not_a_length() -> None:
    running = decoding(max_length=len(PROMPT) + 2)
    running.emit((0,), 0, END)
    assert running.finish_reason is FinishReason.STOP


def test_without_trace_no_tokens_are_told() -> None:
    running = sequence(trace=False)
    (delta,) = running.emit((1,), 0, END)
    assert delta == Delta("a")


def test_without_trace_and_text_there_is_no_event() -> None:
    running = sequence(trace=False, max_length=20)
    running._sink = Silent()
    assert running.emit((1,), 0, END) == []


class Silent(Letters):
    """Holds everything back."""

    def push(self, token_id: int) -> Shown:
        return Shown("")


@pytest.mark.parametrize(
    ("changes", "wants"),
    [
        ({}, True),
        ({"mode": Mode.FORCE}, True),
        ({"mode": Mode.OFF}, False),
        ({"plan": Plan(max_proposal=0)}, False),
        ({"max_length": len(PROMPT) + 3}, True),
        ({"max_length": len(PROMPT) + 2}, False),
    ],
)
def test_a_proposal_is_wanted_only_where_it_could_save_a_forward(
    changes: dict[str, object], wants: bool
) -> None:
    assert decoding(**changes).wants_proposal is wants


def test_a_prompt_not_yet_computed_wants_no_proposal() -> None:
    assert not sequence().wants_proposal


def test_a_row_sends_what_the_draft_does_not_hold_and_digests_everything() -> None:
    running = decoding()
    running.draft_base = 2
    running.emit((2, 3), 0, END)
    row = running.propose_row()
    assert (row.base, row.token_ids) == (2, (7, 1, 2, 3))
    assert row.at_length == len(running.ids)
    assert row.digest == extend_digest(EMPTY_DIGEST, [5, 6, 7, 1, 2, 3])
