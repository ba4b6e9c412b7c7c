"""Work too small for a second thread.

Where idle threads wait passively, waking one takes some 30 µs of the thread that wakes it, and
torch wakes it for every operator of more than 32,768 elements, whatever an element costs.
"""

from __future__ import annotations

import torch


class OneThread:
    """Within it, torch computes on the calling thread alone.

    Bits do not depend on it. A thread that computes for the first time within it, in the same
    process, starts with one thread as well, unless it sets a number of its own.
    """

    def __enter__(self) -> None:
        self._num_threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *raised: object) -> None:
        torch.set_num_threads(self._num_threads)
