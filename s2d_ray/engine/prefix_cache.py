"""The prefix cache of a target: runs of ended texts, and of running ones, lend what they computed.

Attention reads one contiguous run, so a shared prefix is copied once, at admission; that costs
milliseconds where computing it would cost seconds. Only whole blocks of committed ids are lent, and
on a host that keeps bits a copied key has the bits of a computed one. Pure bookkeeping: the copies
are made before the forward, in the order in which they were told. So the source of a copy may be
given away at once: whoever writes there does so later.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from s2d_ray.engine.protocol import EMPTY_DIGEST, extend_digest
from s2d_ray.models.kv_pool import BLOCK, Copy, Run, RunAllocator

Key = tuple[str, int, int]
"""(salt, number of ids, digest of them)."""


@dataclass(eq=False)
class Lender:
    """A run whose first len(ids) positions are computed. held: its text does not run any more."""

    run: Run
    ids: tuple[int, ...]
    salt: str
    held: bool = False

    @cached_property
    def prefixes(self) -> list[Key]:
        """One key per whole block."""
        return block_keys(self.ids, self.salt)


def block_keys(ids: Sequence[int], salt: str) -> list[Key]:
    """What the prefixes of whole blocks are found by, the shortest first."""
    keys, digest = [], EMPTY_DIGEST
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        digest = extend_digest(digest, ids[end - BLOCK : end])
        keys.append((salt, end, digest))
    return keys


class PrefixCache:
    """Hands out runs, keeps those of ended texts while there is room, and finds common prefixes."""

    def __init__(self, allocator: RunAllocator, counters: Counter[str], *, enabled: bool) -> None:
        self._allocator = allocator
        self._counters = counters
        self._enabled = enabled
        self._held: OrderedDict[Lender, None] = OrderedDict()
        self._index: dict[Key, Lender] = {}

    @property
    def num_held_blocks(self) -> int:
        """Blocks of ended texts, given up as soon as somebody needs them."""
        held = tuple(self._held)  # another thread may ask
        return sum(lender.run.num_slots for lender in held) // BLOCK

    @property
    def num_available_blocks(self) -> int:
        """Blocks that no running text has."""
        return self._allocator.num_free_blocks + self.num_held_blocks

    def reserve(self, num_tokens: int, ids: Sequence[int], salt: str) -> tuple[Run, Copy] | None:
        """A run for `num_tokens`, and what to copy into it; None if running texts leave no room.

        The copy is of the longest known prefix of `ids` but the last one, perhaps of no tokens.
        Without room nothing is given up and no id is looked at, so that to wait costs little.
        """
        if not self._allocator.fits_without(num_tokens, self._held_runs()):
            return None
        lender, num_common = self.find(ids, salt)
        while (run := self._allocator.reserve(num_tokens)) is None:
            self._evict()
        source = run.start if lender is None else lender.run.start
        if num_common:
            self._counters["prefix_hits"] += 1
            self._counters["prefix_tokens"] += num_common
        return run, Copy(source, run.start, num_common)

    def grow(self, run: Run, num_tokens: int, lender: Lender | None) -> Run | None:
        """A longer run instead of one in use; None if running texts leave no room.

        If it starts elsewhere, what the old one held must be copied.
        """
        if not self._allocator.fits_without(num_tokens, [run, *self._held_runs()]):
            return None
        while (grown := self._allocator.grow(run, num_tokens)) is None:
            self._evict()
        if lender is not None:
            lender.run = grown
        return grown

    def publish(self, run: Run, ids: Sequence[int], salt: str) -> Lender | None:
        """Let others copy from a run in use, whose `ids` are computed."""
        if not self._enabled or len(ids) < BLOCK:
            return None
        lender = Lender(run, tuple(ids), salt)
        for key in lender.prefixes:
            self._index.setdefault(key, lender)
        return lender

    def retire(self, run: Run, ids: Sequence[int], salt: str, lender: Lender | None) -> None:
        """Take back the run of an ended text; its computed `ids` are kept while there is room."""
        if not self._enabled or len(ids) < BLOCK:
            self.discard(run, lender)
            return
        if lender is not None:
            self.withdraw(lender)
        kept = Lender(self._allocator.shrink(run, len(ids)), tuple(ids), salt, held=True)
        for key in kept.prefixes:
            self._index[key] = kept  # the latest text is the likeliest to go on
        self._held[kept] = None

    def discard(self, run: Run, lender: Lender | None) -> None:
        """Take back a run whose content is not to be trusted."""
        if lender is not None:
            self.withdraw(lender)
        self._allocator.release(run)

    def find(self, ids: Sequence[int], salt: str) -> tuple[Lender | None, int]:
        """Who holds the longest prefix, and how long it is. The last id is always computed anew."""
        if not self._enabled:
            return None, 0
        for key in reversed(block_keys(ids[:-1], salt)):
            lender = self._index.get(key)
            if lender is not None and list(lender.ids[: key[1]]) == list(ids[: key[1]]):
                if lender.held:
                    self._held.move_to_end(lender)
                return lender, key[1]
        return None, 0

    def _held_runs(self) -> list[Run]:
        return [lender.run for lender in self._held]

    def _evict(self) -> None:
        """Give up what was used longest ago; a prefix that was just found comes last."""
        lender, _ = self._held.popitem(last=False)
        self.withdraw(lender)
        self._allocator.release(lender.run)
        self._counters["prefix_evictions"] += 1

    def withdraw(self, lender: Lender) -> None:
        """Let nobody copy from a run any more."""
        for key in lender.prefixes:
            if self._index.get(key) is lender:
                del self._index[key]
