"""How the rows of a packed forward are laid out in attention calls of fixed shapes.

All that does not depend on the layer is decided here, once per forward and kind of layer; the
layers then move their rows with one indexed copy each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s2d_ray.models.kv_pool import BLOCK

_ROW_COUNTS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Bucket:
    """Packed rows of one run, the first at `position`, that share a bucket of keys."""

    run_start: int
    position: int
    rows: tuple[int, ...]

    def fold(self, group: int) -> int:
        """How many of the `group` query heads that share keys are rows of one block."""
        return group if group * len(self.rows) <= _ROW_COUNTS[-1] else 1

    def num_padded(self, group: int) -> int:
        """Rows of a block, padding included."""
        return next(count for count in _ROW_COUNTS if count >= self.fold(group) * len(self.rows))

    def keys(self, window: int | None) -> range:
        """Positions of the keys. They depend on the bucket alone, so a row always sees as many."""
        start = self.position // BLOCK * BLOCK
        first = 0 if window is None else max(0, start - window + 1) // BLOCK * BLOCK
        return range(first, start + BLOCK)


@dataclass
class Turn:
    """Rows that are written, each into the slot it stands in, and then attend bucket by bucket.

    Branches of a tree take turns in the same slots, so that each row sees its ancestors as
    neighbours: a gap between keys would change bits.
    """

    rows: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    buckets: list[Bucket] = field(default_factory=list)


@dataclass(frozen=True)
class Call:
    """One attention call over blocks of rows; block i looks at keys from first_slot + i * distance.

    queries [blocks, kv_heads, num_padded, head_dim]: a view of the layout's blocks.
    mask [buckets, 1, num_padded, num_keys]: one per block, or one for all.
    """

    first_slot: int
    distance: int
    num_keys: int
    queries: Tensor
    mask: Tensor


@dataclass(frozen=True)
class TurnCalls:
    """A turn on its device. rows: which are written, None for all of them in their order."""

    rows: Tensor | None
    slots: Tensor
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Layout:
    """blocks [places, head_dim]: padded queries, refilled by each layer.

    places: of each row and query head, [rows * heads], in the blocks and in the calls' results.
    """

    blocks: Tensor
    places: Tensor
    turns: tuple[TurnCalls, ...]


def lay_out(
    turns: Sequence[Turn], num_rows: int, num_kv_heads: int, window: int | None, query: Tensor
) -> Layout:
    """Decide the calls of all layers whose queries are like `query` and whose window is `window`.

    Shapes: query [1, heads, rows, head_dim].
    """
    group, device = query.shape[1] // num_kv_heads, query.device
    batches = [list(_batches(turn.buckets, group)) for turn in turns]
    first, step, num_places = _places([b for own in batches for b in own], num_rows, group)
    # What an earlier layer left in the padding is finite.
    blocks = query.new_zeros(num_places, num_kv_heads, query.shape[3])
    end, made = 0, []
    for turn, own in zip(turns, batches, strict=True):
        calls = []
        for batch in own:
            start, end = end, end + _num_places(batch, group)
            calls.append(_call(batch, blocks[start:end], window, group))
        in_order = turn.rows == list(range(num_rows))
        rows = None if in_order else torch.tensor(turn.rows, device=device)
        made.append(TurnCalls(rows, torch.tensor(turn.slots, device=device), tuple(calls)))
    of_group = torch.tensor(first)[:, None] + torch.tensor(step)[:, None] * torch.arange(group)
    places = of_group[:, None, :] * num_kv_heads + torch.arange(num_kv_heads)[:, None]
    return Layout(blocks.flatten(0, 1), places.flatten().to(device), tuple(made))


def _batches(buckets: Sequence[Bucket], group: int) -> Iterator[list[Bucket]]:
    """Buckets that share a call: as many keys and padded rows, runs at equal distances.

    A stride reaches the keys of all of them without a copy; any two are at equal distances.
    """
    alike: defaultdict[tuple[int, int], list[Bucket]] = defaultdict(list)
    for bucket in buckets:
        if bucket.fold(group) == group:
            alike[bucket.position // BLOCK, bucket.num_padded(group)].append(bucket)
        else:
            yield [bucket]  # its query heads are blocks of their own
    for found in alike.values():
        batch: list[Bucket] = []
        for bucket in sorted(found, key=lambda each: each.run_start):
            if len(batch) > 1 and bucket.run_start - batch[-1].run_start != _distance(batch):
                yield batch
                batch = []
            batch.append(bucket)
        yield batch


def _distance(batch: Sequence[Bucket]) -> int:
    """Slots from one run of a batch to the next; 0 if there is one run."""
    return batch[1].run_start - batch[0].run_start if len(batch) > 1 else 0


def _num_places(batch: Sequence[Bucket], group: int) -> int:
    """Rows of all blocks of a call, padding included."""
    num_blocks = len(batch) * (group // batch[0].fold(group))
    return num_blocks * batch[0].num_padded(group)


def _places(
    batches: Sequence[Sequence[Bucket]], num_rows: int, group: int
) -> tuple[list[int], list[int], int]:
    """Where the first query head of every row goes, how far on the next, and the places of all.

    Heads in one block lie side by side, all rows of one before those of the next; heads apart are a
    block's length apart.
    """
    first, step = [0] * num_rows, [0] * num_rows
    end = 0
    for batch in batches:
        num_padded = batch[0].num_padded(group)
        for number, bucket in enumerate(batch):
            folded = bucket.fold(group) == group
            for offset, row in enumerate(bucket.rows):
                first[row] = end + number * num_padded + offset
                step[row] = len(bucket.rows) if folded else num_padded
        end += _num_places(batch, group)
    return first, step, end


def _call(batch: Sequence[Bucket], blocks: Tensor, window: int | None, group: int) -> Call:
    """Shapes: blocks [places of the call, kv_heads, head_dim]."""
    num_padded, keys = batch[0].num_padded(group), batch[0].keys(window)
    return Call(
        batch[0].run_start + keys.start,
        _distance(batch),
        len(keys),
        blocks.unflatten(0, (-1, num_padded)).transpose(1, 2),
        _mask(batch, num_padded, window, blocks),
    )


def _mask(batch: Sequence[Bucket], num_padded: int, window: int | None, like: Tensor) -> Tensor:
    """0 where a row may look, -inf behind its own position and before its window.

    Padding looks where some row does: a row that sees no key would be NaN.
    [buckets, 1, num_padded, keys].
    """
    positions = batch[0].keys(window)
    keys = torch.arange(positions.start, positions.stop)
    starts = torch.tensor([(bucket.position, len(bucket.rows)) for bucket in batch])
    own = starts[:, :1] + torch.arange(num_padded) % starts[:, 1:]
    hidden = keys > own[:, None, :, None]
    if window is not None:
        hidden |= keys <= own[:, None, :, None] - window
    mask = torch.zeros(hidden.shape, dtype=like.dtype)
    return mask.masked_fill_(hidden, -torch.inf).to(like.device)
