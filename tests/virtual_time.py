"""An event loop whose clock moves on by itself when nothing is left to do: hours take no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any


class _Impatient(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Tells how long it was asked to wait instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("every task waits for another one")
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time starts at 0 and is no time of the world."""

    def __init__(self) -> None:
        self._clock = _Impatient()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s

    def clock(self) -> SimpleNamespace:
        """What stands in for the module `time`."""
        return SimpleNamespace(monotonic=self.time, time=self.time)


def run_virtually(loop: VirtualLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run it to its end, and close the loop."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main)
