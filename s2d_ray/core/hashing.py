"""The published hash behind all randomness, on Python integers: seeds of choices, keys of draws.

The finaliser of splitmix64 (Steele, Lea, Flood, 2014). Stdlib only.
"""

from __future__ import annotations

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB

SEED_BITS = 53
"""JavaScript keeps integers of this many bits, so a returned seed survives a browser."""


def finalise(value: int) -> int:
    """Mix 64 bits so that each of them depends on all."""
    value = ((value ^ (value >> 30)) * MIX_1) & MASK
    value = ((value ^ (value >> 27)) * MIX_2) & MASK
    return value ^ (value >> 31)


def position_key(seed: int, position: int) -> int:
    """The 64-bit key of all draws at one absolute position of one seeded text."""
    stream = finalise((seed + GOLDEN) & MASK)
    return finalise((stream + position * GOLDEN) & MASK)


def choice_seed(seed: int, prompt: int, choice: int) -> int:
    """The seed of choice i of prompt j in one request; (0, 0) keeps the request's own."""
    if prompt == choice == 0:
        return seed
    mixed = finalise((position_key(seed, prompt) + choice * GOLDEN + 1) & MASK)
    return mixed & ((1 << SEED_BITS) - 1)
