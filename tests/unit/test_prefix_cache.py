"""The prefix cache: what it lends is what was computed, and it never stands in the way."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from s2d_ray.engine.prefix_cache import Lender, PrefixCache
from s2d_ray.models.kv_pool import BLOCK, Run, RunAllocator


def text(*parts: int, tail: int = 0) -> list[int]:
    """Blocks of equal ids, and some more."""
    return [part for part in parts for _ in range(BLOCK)] + [9] * tail


def make(num_blocks: int, *, enabled: bool = True) -> tuple[PrefixCache, RunAllocator]:
    allocator = RunAllocator(num_blocks * BLOCK)
    return PrefixCache(allocator, Counter(), enabled=enabled), allocator


def reserve(cache: PrefixCache, ids: list[int], salt: str = "") -> tuple[Run, int, int]:
    """-> run, where its prefix is copied from, and how many tokens."""
    found = cache.reserve(len(ids) + 10, ids, salt)
    assert found is not None
    run, copy = found
    assert copy.target == run.start
    return run, copy.source, copy.num_tokens


def test_an_ended_text_lends_its_whole_blocks_and_shrinks_to_them() -> None:
    cache, allocator = make(16)
    first, _, num_common = reserve(cache, text(1, 2, tail=200))
    assert num_common == 0
    cache.retire(first, text(1, 2, tail=5), "", None)
    assert cache.num_held_blocks == 3
    assert allocator.num_free_blocks == 13
    assert reserve(cache, text(1, 2, 3))[1:] == (first.start, 2 * BLOCK)
    assert reserve(cache, text(1, 3))[1:] == (first.start, BLOCK)
    assert reserve(cache, text(2, 1))[2] == 0


def test_the_last_id_is_always_computed_anew() -> None:
    cache, _ = make(16)
    run, _, _ = reserve(cache, text(1, 2))
    cache.retire(run, text(1, 2), "", None)
    assert reserve(cache, text(1, 2))[2] == BLOCK
    assert reserve(cache, text(1, 2, tail=1))[2] == 2 * BLOCK


def test_another_salt_sees_nothing() -> None:
    cache, _ = make(16)
    run, _, _ = reserve(cache, text(1, 2), "mine")
    cache.retire(run, text(1, 2), "mine", None)
    assert reserve(cache, text(1, 2, tail=1), "yours")[2] == 0
    assert reserve(cache, text(1, 2, tail=1), "mine")[2] == 2 * BLOCK


def test_a_running_text_lends_its_prompt_until_it_ends() -> None:
    cache, _ = make(16)
    run, _, _ = reserve(cache, text(1, 2))
    lender = cache.publish(run, text(1, 2), "")
    assert reserve(cache, text(1, 2, tail=1))[1:] == (run.start, 2 * BLOCK)
    cache.discard(run, lender)
    assert reserve(cache, text(1, 2, tail=1))[2] == 0


def test_held_texts_give_way_the_oldest_first_and_the_one_in_use_last() -> None:
    cache, _ = make(6)
    for part in (1, 2, 3):
        run, _, _ = reserve(cache, text(part))
        cache.retire(run, text(part, tail=1), "", None)
    assert cache.num_held_blocks == 6
    _, _, num_common = reserve(cache, text(1, tail=100))  # needs three blocks: 2 and 3 go
    assert num_common == BLOCK
    assert cache.num_held_blocks == 2


def test_what_would_not_fit_anyway_makes_nobody_give_way() -> None:
    cache, allocator = make(6)
    running, _, _ = reserve(cache, text(1, tail=60))
    run, _, _ = reserve(cache, text(2))
    cache.retire(run, text(2, tail=1), "", None)
    held = (cache.num_held_blocks, allocator.num_free_blocks)
    assert cache.reserve(5 * BLOCK, text(2), "") is None
    assert cache.grow(running, 7 * BLOCK, None) is None
    assert (cache.num_held_blocks, allocator.num_free_blocks) == held


def test_the_only_source_gives_way_too_and_is_copied_from_all_the_same() -> None:
    """The copy is made before anybody writes to the blocks that the source had."""
    cache, allocator = make(3)
    run, _, _ = reserve(cache, text(1))
    cache.retire(run, text(1, tail=1), "", None)
    assert reserve(cache, text(1, tail=100))[1:] == (run.start, BLOCK)
    assert (cache.num_held_blocks, allocator.num_free_blocks) == (0, 0)


def test_a_run_that_moves_lends_from_its_new_place() -> None:
    cache, _ = make(16)
    run, _, _ = reserve(cache, text(1))
    neighbour, _, _ = reserve(cache, text(2))
    lender = cache.publish(run, text(1), "")
    grown = cache.grow(run, 5 * BLOCK, lender)
    assert grown is not None
    assert grown.start == neighbour.start + neighbour.num_slots
    assert reserve(cache, text(1, tail=1))[1:] == (grown.start, BLOCK)


def test_a_run_grows_over_what_ended_texts_left() -> None:
    cache, _ = make(4)
    run, _, _ = reserve(cache, text(1))
    ended, _, _ = reserve(cache, text(2))
    cache.retire(ended, text(2, tail=1), "", None)
    grown = cache.grow(run, 4 * BLOCK, None)
    assert grown == Run(run.start, 4 * BLOCK)
    assert cache.num_held_blocks == 0


def test_switched_off_it_only_hands_out_runs() -> None:
    cache, allocator = make(8, enabled=False)
    run, _, _ = reserve(cache, text(1, 2))
    assert cache.publish(run, text(1, 2), "") is None
    cache.retire(run, text(1, 2), "", None)
    assert allocator.num_free_blocks == 8
    assert reserve(cache, text(1, 2, 3))[2] == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(4, 24))
def test_a_copy_is_always_of_the_same_ids_and_no_block_is_lost(seed: int, num_blocks: int) -> None:
    """Random texts over few parts come, grow and go; slots remember what was last written there."""
    rng = random.Random(seed)
    cache, allocator = make(num_blocks)
    slots: dict[int, int] = {}
    running: list[tuple[Run, list[int], str, Lender | None]] = []
    for _ in range(90):
        if running and rng.random() < 0.4:
            run, ids, salt, lender = running.pop(rng.randrange(len(running)))
            cache.retire(run, ids, salt, lender)
            continue
        if running and rng.random() < 0.5:
            run, ids, salt, lender = running.pop(rng.randrange(len(running)))
            grown = cache.grow(run, run.num_slots + rng.randrange(1, 4) * BLOCK, lender)
            if grown is not None:
                moved = [slots[run.start + place] for place in range(len(ids))]
                assert moved == ids
                slots |= {grown.start + place: token for place, token in enumerate(moved)}
            running.append((grown or run, ids, salt, lender))
            continue
        ids = text(*(rng.randrange(2) for _ in range(rng.randrange(1, 4))), tail=rng.randrange(9))
        salt = rng.choice(["", "a"])
        found = cache.reserve(len(ids) + rng.randrange(1, 90), ids, salt)
        if found is None:
            continue
        run, copy = found
        assert copy.num_tokens < len(ids)
        lent = [slots.get(copy.source + place) for place in range(copy.num_tokens)]
        assert lent == ids[: copy.num_tokens]
        slots |= {run.start + place: token for place, token in enumerate(ids)}
        running.append((run, ids, salt, cache.publish(run, ids, salt)))
    in_use = sum(run.num_slots for run, *_ in running) // BLOCK
    assert in_use + cache.num_held_blocks + allocator.num_free_blocks == num_blocks
