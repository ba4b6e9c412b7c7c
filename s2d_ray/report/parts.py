"""What a page is made of, before it is HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; the first of a row is its name."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Block:
    """One result, or one side of it."""

    title: str
    text: str = ""
    pictures: Sequence[Markup] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Section:
    """Blocks on one question. name: its anchor."""

    name: str
    title: str
    text: str
    blocks: Sequence[Block]
