"""What plans would be worth on GPUs that are not here: a model, never a measurement.

A decoding step of one text on a GPU takes the time to stream the weights once; rows of a proposal
are nearly free, and layers spread over several GPUs run one after another. Weights of the LLaMA
shapes that S2D was published with (arXiv 2407.01955: a draft of the first 12 of 32 layers of
Vicuna-7B, exits at 6, 9 and 12): 202.4 million per layer of the draft, 131 million per head, which
every exit on the way streams once more; bandwidth as NVIDIA's data sheet of the A100-80G-SXM says.
Launches, attention and the network are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from s2d_ray.core.cost_model import CostModel, Provenance

BYTES_PER_S = 2.039e12
"""A100-80G-SXM."""

BYTES = 2
"""Of a weight in float16."""

LAYER, HEAD = 202.4e6, 131e6
PUBLISHED_LAYERS = 12

HOP_S = 0.0
"""S2D runs draft and target in one process."""


@dataclass(frozen=True)
class Published:
    """A target of S2D's tables. weights: streamed per step. speedup: S2D's own, MT-bench,
    temperature 0, chains."""

    name: str
    weights: float
    speedup: float


TARGETS = (
    Published("Vicuna-7B", 6.6e9, 1.34),
    Published("Vicuna-13B", 12.9e9, 1.38),
    Published("LLaMA-2-70B-Chat", 68.7e9, 1.95),
)


def modelled_costs(target: Published, exit_layers: Sequence[int]) -> CostModel:
    """Costs of a draft whose deepest exit stands where S2D's did, 12 layers deep.

    The rows of a proposal cost nothing, up to 16.
    """
    step_s = BYTES * target.weights / BYTES_PER_S
    draft_s = {}
    for number, layers in enumerate(exit_layers, start=1):
        weights = LAYER * PUBLISHED_LAYERS * layers / exit_layers[-1] + number * HEAD
        draft_s[layers, 1] = draft_s[layers, 16] = BYTES * weights / BYTES_PER_S
    origin = Provenance(f"modelled: {target.name} on A100-80G", "", "")
    forward_s = {(1, 1): step_s, (1, 16): step_s}
    return CostModel(draft_s, forward_s, {64: step_s}, HOP_S, origin)
