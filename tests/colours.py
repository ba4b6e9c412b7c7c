"""The contrast of two colours, as WCAG 2.2 defines it."""

from __future__ import annotations

import re

LINEAR_BELOW = 0.04045


def contrast(one: str, other: str) -> float:
    """Of two opaque colours, written as `rgb(r, g, b)`; 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    match = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", colour)
    assert match, f"not an opaque colour: {colour}"
    red, green, blue = (_linear(int(part) / 255) for part in match.groups())
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(part: float) -> float:
    return part / 12.92 if part <= LINEAR_BELOW else ((part + 0.055) / 1.055) ** 2.4
