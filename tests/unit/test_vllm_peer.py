"""The comparison with vLLM, with a stand-in for vLLM that counts upwards."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from s2d_ray.bench import vllm_peer
from s2d_ray.bench.alternate import Case
from s2d_ray.bench.figures import Sample, Written
from s2d_ray.bench.vllm_peer import Peer
from s2d_ray.errors import RunError

STAND_IN = """
from types import SimpleNamespace
__version__ = "9.9"
print("what vLLM says of itself is no answer")

class SamplingParams:
    def __init__(self, **given):
        assert given["temperature"] == 0.0 and given["ignore_eos"]
        self.count = given["max_tokens"]

class LLM:
    def __init__(self, model, dtype, enforce_eager, **given):
        assert dtype == "float32" and enforce_eager and not given["enable_prefix_caching"]
        if model == "broken":
            raise ValueError("this checkpoint is broken")

    def generate(self, prompts, sampling, use_tqdm):
        def text(ids):
            # The second number tells how many were written at once.
            return SimpleNamespace(token_ids=([ids[-1], len(prompts)] * 9)[: sampling.count])
        return [SimpleNamespace(outputs=[text(each["prompt_token_ids"])]) for each in prompts]
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python for which the stand-in is installed; like the real one, it knows none of ours."""
    (tmp_path / "vllm.py").write_text(STAND_IN)
    start = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]); sys.argv = sys.argv[3:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = tmp_path / "python"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -I -c "{start}" {tmp_path} "$@"\n')
    command.chmod(0o755)
    return command


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[str]]:
    with (tmp_path / "log").open("w+") as file:
        yield file


def test_texts_come_one_by_one_or_all_at_once(python: Path, log: IO[str]) -> None:
    """As the case says, as many tokens as it says, in the order of its prompts."""
    peer = Peer(python, Path("folder"), log)
    assert peer.version == "9.9"
    prompts = ((1, 2), (3,), (4, 5, 6))
    assert peer(Case("1", prompts, 4)).texts == ((2, 1, 2, 1), (3, 1, 3, 1), (6, 1, 6, 1))
    assert peer(Case("8", prompts, 2, concurrent=True)).texts == ((2, 3), (3, 3), (6, 3))
    peer.close()


def test_a_peer_that_does_not_start_says_why(python: Path, tmp_path: Path, log: IO[str]) -> None:
    """In one line, its last words."""
    with pytest.raises(
        RunError, match="^vLLM ended with 1: ValueError: this checkpoint is broken$"
    ):
        Peer(python, Path("broken"), log)
    with pytest.raises(RunError, match="no-python: cannot be run: No such file"):
        Peer(tmp_path / "no-python", Path("folder"), log)


def test_the_result_is_our_speed_over_its_by_texts_at_once() -> None:
    """And says whether the ids were the same, which is not asked for."""
    same, other = Written(((1, 2),)), Written(((1, 3),))
    samples = [
        Sample(case, method, run, seconds, same)
        for run in range(3)
        for case in ("1", "8")
        for method, seconds in (("plain", 1.0), ("vllm", 2.0 if case == "1" else 0.5))
    ]
    found = vllm_peer.result(samples)
    assert found["plain_vs_vllm"] == {"1": 2.0, "8": 0.5}
    assert found["same_ids"]
    assert not vllm_peer.result([*samples[:-1], Sample("8", "vllm", 2, 0.5, other)])["same_ids"]
    json.dumps(found)
