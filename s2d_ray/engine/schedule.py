"""Who runs and who waits: texts in order of arrival, and the runs of the KV pool they live in.

A text is admitted with room for its ids and a little more, and its run grows with it. Where there
is no room to grow, the youngest running text is preempted: it gives its run back, waits in front,
and its ids are computed again later. Nothing else of it changes, so neither does the text.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

from s2d_ray.engine.prefix_cache import PrefixCache
from s2d_ray.engine.sequence import Sequence
from s2d_ray.models.kv_pool import BLOCK, Copy, RunAllocator, blocks_for

AHEAD = 2 * BLOCK
"""Room beyond the ids, so that a run need not grow in every block."""


class Schedule:
    """Sequences of one target. Every one fits an empty pool in its full length; see `add`.

    `running` and behind it `waiting` are in order of arrival at any time: a request joins at the
    end, the first one waiting is admitted behind the last one running, and it is the last one
    running that is preempted, to the front of those waiting. So the oldest text of all is never
    preempted for another, and can take every block that it does not have: each step computes a
    part of it, and it ends. Then the next one is the oldest. Hence every text ends.
    """

    def __init__(
        self,
        allocator: RunAllocator,
        counters: Counter[str],
        *,
        max_batch: int,
        prefix_cache: bool,
    ) -> None:
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self._max_batch = max_batch
        self._num_fitting = max_batch
        self._counters = counters
        self._allocator = allocator
        self._cache = PrefixCache(allocator, counters, enabled=prefix_cache)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.running)

    def __iter__(self) -> Iterator[Sequence]:
        """All of them, the oldest first. Taking one out meanwhile is safe."""
        return iter([*self.running, *self.waiting])

    @property
    def num_held_blocks(self) -> int:
        """Blocks of the prefix cache that running texts may take at any time."""
        return self._cache.num_held_blocks

    @property
    def num_blocks(self) -> int:
        """All blocks."""
        return self._allocator.num_blocks

    @property
    def num_used_blocks(self) -> int:
        """Blocks of running texts."""
        return self.num_blocks - self._cache.num_available_blocks

    def fits(self, num_tokens: int) -> bool:
        """Whether a text of this length could ever run."""
        return self._allocator.fits(num_tokens)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence whose `max_length` fits."""
        assert self.fits(sequence.max_length)
        self.waiting.append(sequence)

    def make_room(self, copies: list[Copy]) -> list[Sequence]:
        """Grow the runs that the next forward would overfill, the oldest text first.

        -> those that were preempted for it. To be called before `admit`, so that whatever is given
        up holds what earlier forwards computed.
        """
        preempted: list[Sequence] = []
        for sequence in self.running.copy():
            while sequence.run is not None and not self._has_room(sequence, copies):
                preempted.append(self._preempt_youngest())
        return preempted

    def admit(self, copies: list[Copy]) -> None:
        """Start waiting texts, in order, as slots and cache allow.

        One block for each text that may still grow is left over, lest the next step undo it.
        """
        while self.waiting and len(self.running) < self._num_fitting:
            sequence = self.waiting[0]
            wanted = min(sequence.max_length, len(sequence.ids) + AHEAD)
            growing = sum(each.num_missing_slots > 0 for each in self.running)
            if self._cache.num_available_blocks < blocks_for(wanted) + growing:
                return
            found = self._cache.reserve(wanted, sequence.ids, sequence.request.cache_salt)
            if found is None:
                return
            run, copy = found
            if copy.num_tokens:
                copies.append(copy)
            self._counters["recomputed_tokens"] += max(0, sequence.num_lost - copy.num_tokens)
            sequence.start(run, copy.num_tokens)
            self.running.append(self.waiting.popleft())

    def give_way(self) -> Sequence | None:
        """Memory does not suffice for all that run: preempt the youngest, until another has ended.

        -> the preempted one, None if only one runs.
        """
        if len(self.running) == 1:
            return None
        preempted = self._preempt_youngest()
        self._num_fitting = len(self.running)
        return preempted

    def publish(self, sequence: Sequence) -> None:
        """All ids are computed: let others copy from them."""
        assert sequence.run is not None
        salt = sequence.request.cache_salt
        sequence.lender = self._cache.publish(sequence.run, sequence.ids, salt)

    def remove(self, sequence: Sequence, *, trusted: bool = True) -> None:
        """Forget a sequence; trusted: whether what it computed may be lent to others."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
        if sequence in self.running:
            self.running.remove(sequence)
            self._give_back(sequence, trusted=trusted)
            self._num_fitting = self._max_batch

    def _has_room(self, sequence: Sequence, copies: list[Copy]) -> bool:
        """Whether the run is long enough for the next forward, now that it grew if it could.

        It grows by a quarter of its length, so over a whole text each position moves a few times.
        """
        old, needed = sequence.run, sequence.num_wanted_slots
        assert old is not None
        if needed <= old.num_slots:
            return True
        ahead = min(sequence.max_length, needed + max(AHEAD, needed // 4))
        run = self._cache.grow(old, ahead, sequence.lender)
        run = run or self._cache.grow(old, needed, sequence.lender)
        if run is None:
            return False
        if run.start != old.start:
            copies.append(Copy(old.start, run.start, sequence.num_computed))
            self._counters["relocations"] += 1
        sequence.run = run
        return True

    def _preempt_youngest(self) -> Sequence:
        sequence = self.running.pop()
        self._give_back(sequence)
        sequence.preempt()
        self.waiting.appendleft(sequence)
        self._counters["preemptions"] += 1
        return sequence

    def _give_back(self, sequence: Sequence, *, trusted: bool = True) -> None:
        assert sequence.run is not None
        if trusted:
            computed = sequence.ids[: sequence.num_computed]
            salt = sequence.request.cache_salt
            self._cache.retire(sequence.run, computed, salt, sequence.lender)
        else:
            self._cache.discard(sequence.run, sequence.lender)
        sequence.run = sequence.lender = None
