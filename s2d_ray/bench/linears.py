"""One linear layer in int8 against the same one packed in float32, by shape and rows.

In a model a layer's weights come from memory, since all others were read before them. So each shape
is measured over as many layers as no cache holds, one after another.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from s2d_ray.bench.checkout import commit
from s2d_ray.core.host import cpu_model
from s2d_ray.models.linear import LinearKind, make_linear
from s2d_ray.models.stopwatch import Call, time_in_turn

SHAPES = (
    (64, 64),
    (128, 128),
    (256, 256),
    (128, 512),
    (512, 128),
    (576, 576),
    (576, 960),
    (576, 3_072),
    (1_536, 576),
    (576, 8_192),
    (576, 49_152),
    (896, 896),
    (896, 1_152),
    (896, 9_728),
    (4_864, 896),
)
"""(inputs, outputs): small ones, then SmolLM2-135M's and Qwen2.5-0.5B's as they are fused."""

ROWS = (1, 2, 4, 8)
KINDS: tuple[LinearKind, ...] = ("packed", "int8")

BYTES = 256 * 2**20
"""Float32 weights of all layers of a shape; in int8 a quarter of it."""

FEWEST, MOST = 2, 512


@dataclass(frozen=True)
class Line:
    """One shape at so many rows. The times are of one layer."""

    num_in: int
    num_out: int
    rows: int
    packed_us: float
    int8_us: float

    @property
    def ratio(self) -> float:
        """int8 over float32."""
        return self.int8_us / self.packed_us


@torch.inference_mode()
def measure(num_in: int, num_out: int, rounds: int, order: random.Random) -> list[Line]:
    """Both kinds at every number of rows, in turn."""
    num_layers = min(max(FEWEST, BYTES // (4 * num_in * num_out)), MOST)
    stock = nn.Linear(num_in, num_out, bias=False)
    calls: dict[tuple[LinearKind, int], Call] = {}
    for kind in KINDS:
        layers = [make_linear(stock, kind) for _ in range(num_layers)]
        for rows in ROWS:
            calls[kind, rows] = partial(_through, layers, torch.randn(rows, num_in))
    seconds = time_in_turn(calls, rounds, order)
    each_us = {key: 1e6 * taken / num_layers for key, taken in seconds.items()}
    return [
        Line(num_in, num_out, rows, each_us["packed", rows], each_us["int8", rows]) for rows in ROWS
    ]


@torch.inference_mode()
def _through(layers: Sequence[nn.Module], rows: Tensor) -> None:
    for layer in layers:
        layer(rows)


def show_table(lines: Sequence[Line]) -> None:
    """One line per shape: int8's time over float32's at every number of rows."""
    heads = [f"{rows} row{'s' * (rows > 1)}" for rows in ROWS]
    table = Table("inputs", "outputs", *heads, title="int8 over float32 (µs of float32)")
    for shape in dict.fromkeys((line.num_in, line.num_out) for line in lines):
        found = [line for line in lines if (line.num_in, line.num_out) == shape]
        table.add_row(
            *map(str, shape), *(f"{line.ratio:.2f} ({line.packed_us:.0f})" for line in found)
        )
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print a table and one line of JSON. -> exit code."""
    parser = argparse.ArgumentParser(prog="s2d_ray.bench.linears", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="decides the order of the calls")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    order = random.Random(chosen.seed)
    lines = [line for shape in SHAPES for line in measure(*shape, chosen.rounds, order)]
    print(f"{cpu_model()}, {chosen.threads} threads, torch {torch.__version__}, {commit()}")
    show_table(lines)
    print(json.dumps([asdict(line) | {"ratio": round(line.ratio, 4)} for line in lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
