"""Work on one thread leaves the number of threads as it was."""

from __future__ import annotations

import pytest
import torch

from s2d_ray.core.params import SamplingParams
from s2d_ray.core.threads import OneThread
from s2d_ray.engine.drawing import Draw, draw_rows
from s2d_ray.models.attention import Segment
from s2d_ray.models.ragged import RaggedModel
from tests.tiny import VOCAB_SIZE, threads, tiny_decoder


@pytest.mark.parametrize("num_threads", [1, 2])
def test_forwards_and_draws_leave_the_number_of_threads_as_it_was(num_threads: int) -> None:
    with threads(num_threads):
        model = RaggedModel(tiny_decoder(dtype=torch.float32), 256)
        run = model.pool.allocator.reserve(64)
        assert run is not None
        logits = model.forward([1, 2, 3], [Segment(run, 0, 3)], [2])
        assert logits.shape == (1, VOCAB_SIZE)
        assert torch.get_num_threads() == num_threads
        draw_rows(logits, [Draw(SamplingParams(7), 3)])
        assert torch.get_num_threads() == num_threads


def test_an_error_gives_the_threads_back() -> None:
    def fail() -> None:
        with OneThread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    with threads(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert torch.get_num_threads() == 2
