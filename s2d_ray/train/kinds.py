"""Choices of the commands, apart so that showing their help loads nothing."""

from __future__ import annotations

from enum import StrEnum


class Trunk(StrEnum):
    """What of a draft's layers is trained: all of them, low-rank additions, or nothing."""

    FULL = "full"
    LOW_RANK = "low-rank"
    FROZEN = "frozen"


class Arithmetic(StrEnum):
    """In what the forward and backward passes multiply; weights and moments stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
