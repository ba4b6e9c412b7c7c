"""Two replicas are alike only if nothing differs that could change a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from s2d_ray.config import TargetConfig
from s2d_ray.models import fingerprint
from s2d_ray.models.fingerprint import fingerprint_of_target
from tests.tiny import tiny_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"), layers=1)


def print_of(folder: Path, *, exact: bool = True, **changes: object) -> str:
    config = TargetConfig.model_validate({"model": "m", "precision": "float32"} | changes)
    return fingerprint_of_target(config, folder, CPU, bitwise_exact=exact)


def test_it_names_what_is_in_a_folder_not_where_it_lies(checkpoint: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    assert print_of(copy) == print_of(checkpoint)
    # What changes no text changes no fingerprint.
    assert print_of(checkpoint, max_batch=3, num_threads=1, prefix_cache=False) == print_of(copy)


def test_every_difference_is_seen(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tiny_checkpoint(tmp_path / "weights", layers=1, seed=1)
    tokenizer = shutil.copytree(checkpoint, tmp_path / "tokenizer")
    path = tokenizer / "tokenizer.json"
    words = json.loads(path.read_text())
    words["model"]["vocab"]["a"], words["model"]["vocab"]["b"] = (
        words["model"]["vocab"]["b"],
        words["model"]["vocab"]["a"],
    )
    path.write_text(json.dumps(words))
    prints = [
        print_of(checkpoint),
        print_of(weights),
        print_of(tokenizer),
        print_of(checkpoint, precision="int8"),
        print_of(checkpoint, max_context=77),
        print_of(checkpoint, default_max_tokens=7),
        print_of(checkpoint, exact=False),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "__version__", "0.0.0")
        prints.append(print_of(checkpoint))
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "version", lambda name: "0" if name == "tokenizers" else "1")
        prints.append(print_of(checkpoint))
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "cpu_model", lambda: "another CPU")
        prints.append(print_of(checkpoint))
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "NO AVX")
        prints.append(print_of(checkpoint))
    assert len(set(prints)) == len(prints)
