"""Usage records as columns, read from the files that the ledger writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2d_ray.errors import DataError
from s2d_ray.policy.usage import UsageRecord

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NUMBERS = (
    *("ended_s", "total_ms", "queue_ms", "prompt_tokens", "cached_tokens"),
    *("completion_tokens", "drafted_tokens", "accepted_tokens"),
)
NAMES = ("tenant", "target")
KNOWN = {field.name for field in fields(UsageRecord)}

MOST_BYTES = 2**30
"""Of all files; the ledger keeps 9 of 64 MiB."""

SHOWN = 20
"""Bad lines that are told one by one."""


@dataclass(frozen=True)
class Usage:
    """Requests that ran, all columns [requests], in the order of their starts.

    starts_s, ends_s: when a replica had them, Unix seconds; a request's arrival is its start less
    the wait in the ledger.
    """

    tenants: npt.NDArray[np.str_]
    targets: npt.NDArray[np.str_]
    arrivals_s: Floats
    starts_s: Floats
    ends_s: Floats
    prompt_tokens: Ints
    cached_tokens: Ints
    completion_tokens: Ints
    drafted_tokens: Ints
    accepted_tokens: Ints

    def __len__(self) -> int:
        return len(self.starts_s)

    @property
    def span_s(self) -> tuple[float, float]:
        """From the first arrival to the last end; empty of nothing."""
        if not len(self):
            return 0.0, 0.0
        return float(self.arrivals_s.min()), float(self.ends_s.max())

    def where(self, mask: npt.NDArray[np.bool_]) -> Usage:
        """Some of them."""
        return Usage(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def of(self, target: str) -> Usage:
        """Those of one target."""
        return self.where(self.targets == target)


def read_usage(
    paths: Sequence[Path], told: Callable[[int], None] = lambda _: None
) -> tuple[Usage, list[str]]:
    """Records of files in any order, each file once, and what was skipped: `FILE:LINE: reason`.

    told: of bytes read, as they are. Raises DataError if a file cannot be read, or there is too
    much.
    """
    numbers: list[tuple[float, ...]] = []
    names: list[tuple[str, ...]] = []
    skipped: list[str] = []
    left = MOST_BYTES
    for path in dict.fromkeys(path.resolve() for path in paths):
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    told(len(line))
                    left -= len(line)
                    if left < 0:
                        raise DataError(f"{path}: more than {MOST_BYTES >> 20} MiB of usage")
                    if not line.strip():
                        continue
                    try:
                        values, words = _parsed(line)
                    except ValueError as error:
                        skipped.append(f"{path}:{number}: {error}")
                    else:
                        numbers.append(values)
                        names.append(words)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return _columns(numbers, names), skipped


def usage_of(records: Iterable[UsageRecord]) -> Usage:
    """The same from records that are there."""
    found = list(records)
    return _columns(
        [tuple(float(getattr(each, name)) for name in NUMBERS) for each in found],
        [(each.tenant, each.target) for each in found],
    )


def _parsed(line: bytes) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Raises ValueError saying what is wrong."""
    try:
        tree: Any = json.loads(line)
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(tree, dict):
        raise ValueError("not a JSON object")
    words = tuple(tree.get(name) for name in NAMES)
    for name, word in zip(NAMES, words, strict=True):
        if not isinstance(word, str):
            raise ValueError(f"{name}: {'not a text' if name in tree else 'missing'}")
    if "reason" in tree and "requests" in tree:
        raise ValueError("a line of refusals, not of usage")
    return tuple(_number(tree, name) for name in NUMBERS), words


def _number(tree: dict[str, Any], name: str) -> float:
    if name not in tree:
        raise ValueError(f"{name}: missing")
    value = tree[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: not a number")
    if not 0 <= value < 1e15 or math.isnan(value):
        raise ValueError(f"{name}: {value} is out of range")
    return float(value)


def _columns(numbers: Sequence[tuple[float, ...]], names: Sequence[tuple[str, ...]]) -> Usage:
    table = np.array(numbers, dtype=np.float64).reshape(-1, len(NUMBERS))
    by_name = dict(zip(NUMBERS, table.T, strict=True))
    ends_s = by_name["ended_s"]
    arrivals_s = ends_s - by_name["total_ms"] / 1e3
    starts_s = np.minimum(arrivals_s + by_name["queue_ms"] / 1e3, ends_s)
    order = np.argsort(starts_s, kind="stable")
    words = np.array(names, dtype=np.str_).reshape(-1, len(NAMES))[order]
    counts = {name: by_name[name][order].astype(np.int64) for name in NUMBERS[3:]}
    return Usage(
        words[:, 0], words[:, 1], arrivals_s[order], starts_s[order], ends_s[order], **counts
    )
