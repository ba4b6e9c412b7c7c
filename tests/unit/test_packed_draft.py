"""A draft small enough to ship: changes to its base, unpacked where a config names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from s2d_ray.config import DraftConfig
from s2d_ray.errors import ModelError
from s2d_ray.models.draft_files import CHANGES, base_of, ensure_draft, read, read_card
from s2d_ray.models.packed_draft import pack
from s2d_ray.models_cli import models_app
from s2d_ray.train.kinds import Trunk
from tests.corpora import random_corpus
from tests.tiny import tiny_checkpoint
from tests.trainees import train


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "base")


@pytest.fixture
def trained(base: Path, tmp_path: Path) -> Path:
    corpus = random_corpus(tmp_path / "corpus", base)
    train(base, corpus, tmp_path / "run", block_size=8, own_heads=True)
    return tmp_path / "run" / "draft"


def packed(trained: Path) -> Path:
    return pack(trained, trained.parents[1] / "packed", lambda line: None)


def test_a_packed_draft_comes_back_within_its_rounding(trained: Path) -> None:
    """Matrices to half a scale of each row; everything else exactly; the embedding not stored."""
    folder = packed(trained)
    changes = load_file(folder / CHANGES)
    assert not any("embed" in name for name in changes)
    mine = read(trained)[1].state_dict()
    found = ensure_draft(DraftConfig(checkpoint=str(folder)))
    others = read(found)[1].state_dict()
    assert set(mine) == set(others)
    rounded = 0
    for name, value in mine.items():
        if f"scale.{name}" in changes:
            bound = 0.51 * changes[f"scale.{name}"][:, None] + 1e-6
            assert ((others[name] - value).abs() <= bound).all()
            rounded += 1
        else:
            assert torch.equal(others[name], value)
    assert rounded == 4 * 7 + 2


def test_a_packed_draft_is_a_quarter_of_its_trained_weights(trained: Path) -> None:
    """One byte for four of a matrix, and nothing for the embedding."""
    folder = packed(trained)
    whole = read(trained)[1].state_dict()
    matrices = sum(
        value.numel()
        for name, value in whole.items()
        if value.dim() == 2 and "embed" not in name and "exit_blocks" not in name
    )
    stored = sum(
        value.numel() for name, value in load_file(folder / CHANGES).items() if "int8." in name
    )
    assert stored == matrices
    assert (folder / "README.md").exists()


def test_a_frozen_trunk_is_not_stored_at_all(base: Path, tmp_path: Path) -> None:
    """What training left alone is the base's own."""
    corpus = random_corpus(tmp_path / "corpus", base)
    train(base, corpus, tmp_path / "run", trunk=Trunk.FROZEN)
    changes = load_file(packed(tmp_path / "run" / "draft") / CHANGES)
    assert not any("proj" in name for name in changes)
    assert "int8.heads.0.weight" in changes


def test_a_packed_draft_is_unpacked_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start reads the cache; another packed draft has a folder of its own."""
    config = DraftConfig(checkpoint=str(packed(trained)))
    said: list[str] = []
    folder = ensure_draft(config, report=said.append)
    assert len(said) == 1
    assert ensure_draft(config, report=said.append) == folder
    assert len(said) == 1
    assert read_card(folder).packed is False
    card = json.loads((packed(trained) / "draft.json").read_text())
    other = packed(trained)
    (other / "draft.json").write_text(json.dumps(card | {"trained_tokens": 7}))
    assert ensure_draft(DraftConfig(checkpoint=str(other))) != folder


def test_pull_has_the_draft_of_a_config_ready_and_names_its_folder(
    trained: Path, base: Path, tmp_path: Path
) -> None:
    """With what runs on `draft`, not on a placement of targets; so a pod need not build it."""
    config = tmp_path / "config.yaml"
    draft = {"checkpoint": str(packed(trained))}
    target = {"model": str(base), "placement": "p"}
    config.write_text(json.dumps({"targets": {"t": target}, "draft": draft}))
    pulled = {
        place: CliRunner().invoke(models_app, ["pull", "--config", str(config), "--place", place])
        for place in ("draft", "p")
    }
    assert pulled["draft"].stdout.split() == [str(ensure_draft(DraftConfig(**draft)))]
    assert pulled["p"].stdout.split() == [str(base)]


def test_a_config_whose_draft_is_packed_names_the_base_to_train_from(
    trained: Path, base: Path
) -> None:
    assert base_of(DraftConfig(checkpoint=str(packed(trained)))) == str(base)
    assert base_of(DraftConfig(base="another")) == "another"


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_damaged_packed_draft_is_named(trained: Path, damage: str) -> None:
    """One line, and nothing half unpacked is left in the cache."""
    folder = packed(trained)
    path = folder / CHANGES
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelError, match=r"changes\.safetensors: cannot be read"):
        ensure_draft(DraftConfig(checkpoint=str(folder)))


def test_changes_to_other_weights_are_refused(trained: Path, base: Path) -> None:
    """By their hash: they would make another draft of them."""
    folder = packed(trained)
    tiny_checkpoint(base, seed=3)
    with pytest.raises(ModelError, match="was not trained from the weights that"):
        ensure_draft(DraftConfig(checkpoint=str(folder)))


def test_a_draft_that_was_only_cut_is_not_packed(base: Path, tmp_path: Path) -> None:
    """A config that names its base is smaller still."""
    fields = DraftConfig(base=str(base), exit_layers=(2, 4)).model_dump() | {"head_size": 80}
    folder = ensure_draft(DraftConfig.model_construct(**fields))
    with pytest.raises(ModelError, match="is not trained"):
        pack(folder, tmp_path / "packed", lambda line: None)
