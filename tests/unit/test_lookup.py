"""Tier 0: the longest match of a text's end, what followed it, and what is learnt of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_ray.core.lookup import LONGEST_MATCH, Experience, Match, SuffixIndex, num_guesses

texts = st.lists(st.integers(0, 3), max_size=60)


def longest_match(ids: list[int], gram: int) -> int:
    """Length of the longest earlier match of the end, by trying every place."""
    best = 0
    for end in range(gram, len(ids)):
        length = 0
        while length < min(end, LONGEST_MATCH) and ids[end - 1 - length] == ids[-1 - length]:
            length += 1
        best = max(best, length)
    return best if best >= gram else 0


@given(texts, st.integers(1, 4))
def test_the_match_is_a_real_one_and_as_long_as_any_of_the_latest(
    ids: list[int], gram: int
) -> None:
    match = SuffixIndex(gram).find(ids)
    if match is None:
        assert longest_match(ids, gram) == 0
        return
    assert gram <= match.length <= longest_match(ids, gram)
    assert 0 < match.position < len(ids)
    assert ids[match.position - match.length : match.position] == ids[-match.length :]


@given(texts, st.lists(st.integers(1, 60), max_size=5), st.integers(1, 3))
def test_a_text_that_grows_is_found_in_like_one_that_is_there(
    ids: list[int], cuts: list[int], gram: int
) -> None:
    growing = SuffixIndex(gram)
    for cut in sorted(cuts):
        growing.find(ids[:cut])
    assert growing.find(ids) == SuffixIndex(gram).find(ids)


def test_of_equal_matches_the_latest_is_taken_and_of_unequal_ones_the_longest() -> None:
    assert SuffixIndex(2).find([1, 2, 5, 1, 2, 6, 1, 2]) == Match(5, 2)
    assert SuffixIndex(2).find([9, 1, 2, 5, 1, 2, 6, 9, 1, 2]) == Match(3, 3)


@pytest.mark.parametrize(
    ("position", "count", "guesses"),
    [(2, 3, [7, 8, 9]), (4, 5, [9, 1, 9, 1, 9]), (5, 3, [1, 1, 1])],
)
def test_a_guess_repeats_once_it_reaches_the_end(
    position: int, count: int, guesses: list[int]
) -> None:
    assert Match(position, 2).guess([1, 2, 7, 8, 9, 1], count) == guesses


def test_confidence_starts_undecided_and_follows_what_was_accepted() -> None:
    experience = Experience()
    short, long = Match(9, 3), Match(9, 20)
    assert experience.confidence(short) == experience.confidence(long) == 0.5
    for _ in range(20):
        experience.learn(short, 4, 0)
        experience.learn(long, 4, 4)
    assert experience.confidence(short) < 0.1
    assert experience.confidence(long) > 0.9


@pytest.mark.parametrize(
    ("confidence", "count"), [(0.0, 0), (0.01, 0), (0.02, 1), (0.15, 2), (0.5, 5), (0.99, 10)]
)
def test_so_many_guesses_are_made_as_are_right_together_now_and_then(
    confidence: float, count: int
) -> None:
    assert num_guesses(confidence, 10) == count


def test_the_tier_that_is_expected_to_commit_more_for_the_time_is_preferred() -> None:
    experience = Experience()
    assert experience.prefers(0.5, 4, 0.0), "a draft that has shown nothing is no rival"
    for _ in range(50):
        experience.learn_draft(2)
    # 3 tokens of the draft against 1 + .94 of tier 0 at .5, and 1 + 3.1 at .9.
    assert not experience.prefers(0.5, 4, 0.0)
    assert not experience.prefers(0.5, 4, 0.5)
    assert experience.prefers(0.5, 4, 0.6)
    assert experience.prefers(0.9, 4, 0.0)
    for _ in range(400):
        experience.learn_draft(0)
    assert experience.prefers(0.5, 4, 0.0)
