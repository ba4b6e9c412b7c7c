"""The measurement of forwards: every case is there, against the stock row of the same run."""

from __future__ import annotations

from pathlib import Path

import torch

from s2d_ray.bench.forward import DRAFT_ROWS, ROWS, SEQUENCES, STOCK, TREES, measure
from s2d_ray.models import draft_files
from s2d_ray.models.draft_files import DraftCard
from s2d_ray.models.sorted_draft import cut_draft
from tests.tiny import EOS, VOCAB_SIZE, threads, tiny_checkpoint, tiny_decoder


def test_each_shape_is_measured_once_in_each_precision(tmp_path: Path) -> None:
    """Tiny models; nothing is said about how long they take."""
    exits = (2, 4, 6)
    target = tiny_checkpoint(tmp_path / "target")
    draft = cut_draft(tiny_decoder(dtype=torch.float32), range(VOCAB_SIZE), exits)
    card = DraftCard("base", exits, VOCAB_SIZE, "fingerprint", (EOS,))
    draft_files.write(tmp_path / "draft", card, draft)
    with threads(1):
        cases = measure(target, tmp_path / "draft", ("float32", "int8"), rounds=1, seed=1)
    of_a_target = len(ROWS) + len(SEQUENCES) + len(TREES)
    assert len(cases) == 1 + 2 * (of_a_target + len(exits) * len(DRAFT_ROWS))
    assert len({(case.model, case.shape) for case in cases}) == len(cases)
    assert (cases[0].model, cases[0].ratio) == (STOCK, 1.0)
    assert all(case.ratio == case.ms / cases[0].ms > 0 for case in cases)
