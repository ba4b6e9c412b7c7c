"""Whether an error says that memory did not suffice."""

from __future__ import annotations

import torch

CPU_ALLOCATOR = "DefaultCPUAllocator"
"""torch's allocator on the CPU raises a plain RuntimeError that names it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch's allocator on the CPU or a GPU could not give more."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)
