"""One sequence: what a round commits, what it drops, and how it is counted and told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.core.proposals import Proposal, Verdict
from s2d_ray.engine.drawing import Drawn
from s2d_ray.engine.guesses import Origin
from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Mode,
    TextPrompt,
    TokenLogprob,
)
from s2d_ray.engine.protocol import EMPTY_DIGEST, extend_digest
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

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([96 + token_id])


def sequence(
    max_length: int = 20,
    *,
    stop: str = "",
    mode: Mode = Mode.AUTO,
    plan: Plan | None = None,
    trace: bool = True,
    **sampling: Any,
) -> Sequence:
    params = SamplingParams(1, **sampling)
    request = GenerateRequest("r", TextPrompt(""), params, plan or Plan(), mode, trace)
    return Sequence(request, PROMPT, max_length, Letters(stop), END)


def emit(running: Sequence, tokens: tuple[int, ...], num_accepted: int) -> list[Event]:
    """Commit drawn tokens, of which the first ones were accepted nodes of a chain."""
    verdict = Verdict(tuple(range(1, num_accepted + 1)), tokens)
    return running.emit(verdict, [Drawn(token) for token in tokens])


def decoding(**changes: object) -> Sequence:
    """A sequence whose prompt has been computed and answered with token 1."""
    fresh = sequence(**changes)  # type: ignore[arg-type]
    emit(fresh, (1,), 0)
    return fresh


def propose(running: Sequence, *tokens: int) -> None:
    count = len(tokens)
    exits, confidences = (4, 8, 12, 4)[:count], (0.5, 0.6, 0.7, 0.8)[:count]
    origins = tuple(Origin(*pair, 0) for pair in zip(exits, confidences, strict=True))
    running.accept_proposal(Proposal.chain(tokens), origins)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_the_prompt_s_own_token_is_no_round() -> None:
    running = decoding()
    assert running.ids == [*PROMPT, 1]
    assert running.tally.num_rounds == 0
    assert running.decoding
    assert running.num_computed == len(PROMPT)


def test_accepted_tokens_name_their_sub_model_and_the_last_is_the_target_s() -> None:
    running = decoding()
    propose(running, 2, 3, 9)
    (delta,) = emit(running, (2, 3, 4), 2)
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
    emit(running, (2, 3, 4), 2)
    emit(running, (5,), 0)
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
    events = emit(running, (2, 3, 4, 5, 6), 4)
    assert running.finish_reason is reason
    assert text_of(events) == text
    assert running.ids == [*PROMPT, 1, 2, 3]
    assert running.usage().completion_tokens == 1 + num_kept
    assert running.usage().accepted_tokens == num_kept
    assert isinstance(events[-1], Finished)


def test_an_end_token_counts_but_is_not_shown() -> None:
    running = decoding()
    propose(running, 2, 0, 3)
    events = emit(running, (2, 0, 3, 4), 3)
    assert running.finish_reason is FinishReason.STOP
    assert text_of(events) == "b."
    assert running.usage().completion_tokens == 3
    assert running.usage().accepted_tokens == 2


def test_the_end_token_in_the_last_place_is_a_stop_not_a_length() -> None:
    running = decoding(max_length=len(PROMPT) + 2)
    emit(running, (0,), 0)
    assert running.finish_reason is FinishReason.STOP


def test_without_trace_no_tokens_are_told() -> None:
    running = sequence(trace=False)
    (delta,) = emit(running, (1,), 0)
    assert delta == Delta("a", (), (1,))


def test_without_trace_and_text_there_is_no_event() -> None:
    running = sequence(trace=False, max_length=20)
    running._sink = Silent()
    assert emit(running, (1,), 0) == []


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
        ({"plan": Plan(max_proposal=0, min_match=0)}, False),
        ({"plan": Plan(max_proposal=0)}, True),
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
    emit(running, (2,), 0)
    emit(running, (3,), 0)
    row = running.propose_row()
    assert (row.base, row.token_ids) == (2, (7, 1, 2, 3))
    assert row.at_length == len(running.ids)
    assert row.digest == extend_digest(EMPTY_DIGEST, [5, 6, 7, 1, 2, 3])


def test_a_guess_off_the_spine_is_committed_but_computed_again() -> None:
    """Its keys lie elsewhere: what stands behind the last spine node is not in the cache."""
    running = decoding()
    tree = Proposal((2, 3, 4, 5), (0, 0, 1, 2))  # spine 2, 4; beside it 3 and, behind that, 5
    origins = tuple(Origin(4, 0.5, rank) for rank in (0, 1, 0, 0))
    running.accept_proposal(tree, origins)
    held = len(running.ids)
    (delta,) = running.emit(Verdict((2, 4), (3, 5, 6)), [Drawn(token) for token in (3, 9, 5, 9, 6)])
    assert running.ids[held:] == [3, 5, 6]
    assert running.num_computed == held
    assert isinstance(delta, Delta)
    assert [trace.rank for trace in delta.tokens] == [1, 0, None]
    assert running.usage().accepted_by_rank == {0: 1, 1: 1}
    running.accept_proposal(tree, origins)
    held = len(running.ids)
    running.emit(Verdict((1,), (2, 7)), [Drawn(token) for token in (2, 7, 9, 9, 9)])
    assert running.num_computed == held + 1
    assert [vars(count) for count in running.usage().rounds_by_length] == [
        {"drafted": 2, "accepted": 1, "rounds": 1},
        {"drafted": 2, "accepted": 2, "rounds": 1},
    ]


def test_log_probabilities_reach_the_client_with_the_bytes_of_their_tokens() -> None:
    running = sequence(trace=False, logprobs=2)
    (delta,) = running.emit(Verdict((), (1,)), [Drawn(1, -0.5, ((1, -0.5), (2, -3.0)))])
    assert isinstance(delta, Delta)
    (token,) = delta.tokens
    assert token.logprob == TokenLogprob(1, b"a", -0.5)
    assert token.alternatives == (TokenLogprob(1, b"a", -0.5), TokenLogprob(2, b"b", -3.0))


def test_stop_ids_end_a_text_and_ignored_end_tokens_do_not() -> None:
    running = sequence(stop_token_ids=(3,), ignore_eos=True)
    emit(running, (1,), 0)
    emit(running, (0, 2, 3, 4), 0)
    assert running.ids == [*PROMPT, 1, 0]
    propose(running, 2, 3)
    emit(running, (2, 3, 4), 2)
    assert running.finish_reason is FinishReason.STOP
    assert running.ids == [*PROMPT, 1, 0, 2, 3]


def test_until_min_tokens_no_end_may_be_drawn_or_guessed() -> None:
    running = sequence(min_tokens=3, stop_token_ids=(7,))
    assert set(running.propose_row().banned) == {0, 7}
    emit(running, (1,), 0)
    propose(running, 2, 3)
    assert [set(draw.past.banned) for draw in running.draws()] == [{0, 7}, {0, 7}, set()]


def test_a_row_of_a_proposal_counts_prompt_output_and_its_ancestors() -> None:
    running = sequence(presence_penalty=1.0)
    emit(running, (1,), 0)
    origins = (Origin(4, 0.5, 0),) * 3
    running.accept_proposal(Proposal((2, 3, 4), (0, 0, 1)), origins)
    pasts = [draw.past for draw in running.draws()]
    assert {tuple(past.prompt_ids) for past in pasts} == {tuple(PROMPT)}
    assert [tuple(past.output_ids) for past in pasts] == [(1,), (1, 2), (1, 3), (1, 2, 4)]
    assert [draw.position for draw in running.draws()] == [4, 5, 5, 6]
    assert [draw.num_left for draw in running.draws()] == [16, 15, 15, 14]
