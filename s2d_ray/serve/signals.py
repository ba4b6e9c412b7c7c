"""What Ctrl-C, a polite kill and a closed terminal do to `s2d serve`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from s2d_ray.serve import run_file

Handler = Callable[[int, FrameType | None], None]


class Stop(BaseException):
    """A signal asked the run to end. Not an Exception, so that no `except Exception` eats it."""


def in_order(temp_dir: Path) -> Handler:
    """A handler that ends the run by raising Stop; the next signal ends it at once."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        take_signals(at_once(temp_dir))
        raise Stop

    return handle


def at_once(temp_dir: Path) -> Handler:
    """A handler that kills all processes of the run, this one last."""

    def handle(number: int, _frame: FrameType | None) -> None:
        run_file.end_leftovers(run_file.descendants(), str(temp_dir), print)
        os._exit(128 + number)

    return handle


def take_signals(handler: Handler) -> None:
    """Give Ctrl-C, a polite kill and a closed terminal the same handler."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # such as SIGHUP under nohup
            signal.signal(number, handler)
