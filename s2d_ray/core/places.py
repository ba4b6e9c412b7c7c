"""Places of what is true: few among many, which numpy finds several times faster than torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def places(mask: Tensor) -> Tensor:
    """Where a mask is true, rising. Shapes: [n] bool -> [true] int64."""
    if mask.device.type != "cpu":
        return torch.nonzero(mask).squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))
