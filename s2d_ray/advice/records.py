"""Usage records as columns, read from the files that the ledger writes."""

from __future__ import annotations

import json
import math
import sys
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2d_ray.errors import DataError
from s2d_ray.policy.usage import UsageRecord

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COUNTS = (
    *("prompt_tokens", "cached_tokens", "completion_tokens"),
    *("drafted_tokens", "accepted_tokens"),
)
NUMBERS = ("ended_s", "total_ms", "queue_ms", *COUNTS)

MOST_BYTES = 2**30
"""Of all files; the ledger keeps 9 of 64 MiB."""

TOLD_LINES = 4_096
"""Of a file, between two words on how far it is."""

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
        return Usage(**{each.name: getattr(self, each.name)[mask] for each in fields(self)})

    def of(self, target: str) -> Usage:
        """Those of one target."""
        return self.where(self.targets == target)


@dataclass
class _Rows:
    """What was read. numbers: those of `NUMBERS`, row by row."""

    numbers: array[float] = field(default_factory=lambda: array("d"))
    tenants: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)

    def add(self, numbers: Iterable[float], tenant: str, target: str) -> None:
        self.numbers.extend(numbers)
        # Few names, in very many records.
        self.tenants.append(sys.intern(tenant))
        self.targets.append(sys.intern(target))

    def columns(self) -> Usage:
        table = np.array(self.numbers, dtype=np.float64).reshape(-1, len(NUMBERS))
        by_name = dict(zip(NUMBERS, table.T, strict=True))
        ends_s = by_name["ended_s"]
        arrivals_s = ends_s - by_name["total_ms"] / 1e3
        starts_s = np.minimum(arrivals_s + by_name["queue_ms"] / 1e3, ends_s)
        order = np.argsort(starts_s, kind="stable")
        return Usage(
            np.array(self.tenants, dtype=np.str_)[order],
            np.array(self.targets, dtype=np.str_)[order],
            arrivals_s[order],
            starts_s[order],
            ends_s[order],
            **{name: by_name[name][order].astype(np.int64) for name in COUNTS},
        )


def read_usage(
    paths: Sequence[Path], told: Callable[[int], None] = lambda _: None
) -> tuple[Usage, list[str]]:
    """Records of files in any order, each file once, and what was skipped: `FILE:LINE: reason`.

    told: of bytes read, now and then. Raises DataError if a file cannot be read, or there is too
    much.
    """
    rows, skipped, total = _Rows(), list[str](), 0
    for path in dict.fromkeys(path.resolve() for path in paths):
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    total += len(line)
                    if total > MOST_BYTES:
                        raise DataError(f"{path}: more than {MOST_BYTES >> 20} MiB of usage")
                    if number % TOLD_LINES == 0:
                        told(total)
                    if not line.strip():
                        continue
                    try:
                        rows.add(*_parsed(line))
                    except ValueError as error:
                        skipped.append(f"{path}:{number}: {error}")
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    told(total)
    return rows.columns(), skipped


def usage_of(records: Iterable[UsageRecord]) -> Usage:
    """The same from records that are there."""
    rows = _Rows()
    for each in records:
        rows.add((getattr(each, name) for name in NUMBERS), each.tenant, each.target)
    return rows.columns()


def _parsed(line: bytes) -> tuple[list[float], str, str]:
    """Numbers, tenant and target. Raises ValueError saying what is wrong."""
    try:
        tree: Any = json.loads(line)
    except ValueError:
        raise ValueError("not JSON") from None
    if not isinstance(tree, dict):
        raise ValueError("not a JSON object")
    if "reason" in tree and "requests" in tree:
        raise ValueError("a line of refusals, not of usage")
    tenant, target = (_name(tree, name) for name in ("tenant", "target"))
    return [_number(tree, name) for name in NUMBERS], tenant, target


def _name(tree: dict[str, Any], name: str) -> str:
    value = tree.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name}: {'not a text' if name in tree else 'missing'}")
    return value


def _number(tree: dict[str, Any], name: str) -> float:
    if name not in tree:
        raise ValueError(f"{name}: missing")
    value = tree[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: not a number")
    if not 0 <= value < 1e15 or math.isnan(value):
        raise ValueError(f"{name}: {value} is out of range")
    return float(value)
