"""`s2d init` writes a config that fits the models, and is refused by name where none does."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s2d_ray.cli import app
from s2d_ray.config import AppConfig, load_config
from s2d_ray.errors import S2DError
from s2d_ray.first_config import Model, exits_for, first_config
from s2d_ray.models.draft_files import DraftCard
from s2d_ray.models.text import fingerprint_of
from s2d_ray.serve.checks import check_config
from tests.tiny import MAX_POSITIONS, tiny_checkpoint

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough a vocabulary for a draft's head, which has 256 ids at least."""
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "qwen2")


def draft_of(folder: Path, tokenizer: str) -> Path:
    folder.mkdir()
    card = DraftCard("base", (1, 2), 64, tokenizer, (0,))
    (folder / "draft.json").write_text(json.dumps(asdict(card)))
    return folder


def written(out: Path, *words: str) -> AppConfig:
    done = RUNNER.invoke(app, ["init", "--out", str(out), *words])
    assert done.exit_code == 0, done.output
    return load_config(out)


def test_with_a_trained_draft_the_config_is_sound_and_names_whole_paths(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft_of(tmp_path / "draft", fingerprint_of(checkpoint))
    monkeypatch.chdir(tmp_path)
    config = written(Path("a.yaml"), f"--target=one={checkpoint}", "--draft=draft")
    assert check_config(config) == []
    assert config.draft is not None
    assert config.draft.checkpoint == str(tmp_path / "draft")
    assert config.targets["one"].model == str(checkpoint)


def test_without_one_it_is_cut_from_the_smallest_target(checkpoint: Path, tmp_path: Path) -> None:
    small = tiny_checkpoint(tmp_path / "small", layers=3)
    text = first_config({"large": str(checkpoint), "small": str(small)}, None)
    assert f'base: "{small}"' in text
    assert "exit_layers: [1, 2] # of 3" in text


def test_a_context_is_no_longer_than_the_model_s(checkpoint: Path, tmp_path: Path) -> None:
    short = tiny_checkpoint(tmp_path / "short")
    fields = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(fields | {"max_position_embeddings": 96}))
    text = first_config({"long": str(checkpoint), "short": str(short)}, None)
    assert "max_context: 96 # of 96" in text
    assert f"max_context: {MAX_POSITIONS} # of {MAX_POSITIONS:,}" in text


def test_a_deep_model_gets_a_cache_for_four_whole_texts(tmp_path: Path) -> None:
    path = tiny_checkpoint(tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1_024}))
    text = first_config({"deep": str(tmp_path)}, None)
    token_bytes = 1_024 * 2 * 32 * 4  # layers, keys and values, heads × their size, float32
    assert f"kv_cache_mib: {4 * MAX_POSITIONS * token_bytes // 2**20} #" in text


@pytest.mark.parametrize(
    ("layers", "is_target", "exits"),
    [
        (30, True, (2, 4)),
        (80, True, (6, 12)),
        (6, True, (1, 2)),
        (1, True, (1,)),
        (16, False, (4, 8, 16)),
        (2, False, (1, 2)),
    ],
)
def test_exits_grow_with_the_layers(layers: int, is_target: bool, exits: tuple[int, ...]) -> None:
    model = Model("a", 1_000, {"num_hidden_layers": layers, "hidden_size": 64})
    assert exits_for(model, is_target) == exits


def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(
    checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.yaml"
    other = draft_of(tmp_path / "draft", "0" * 64)
    words = ["init", "--out", str(out), "--target", f"one={checkpoint}"]
    refused = RUNNER.invoke(app, [*words, "--draft", str(other)])
    assert isinstance(refused.exception, S2DError)
    assert "tokenizer is not that of target one" in refused.exception.message
    twice = RUNNER.invoke(app, [*words, "--target", f"one={checkpoint}"])
    assert twice.exit_code == 2
    assert not out.exists()


def test_a_model_that_is_not_here_is_refused_with_the_command_that_fetches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(S2DError, match="s2d models pull 'hub:some/model'"):
        first_config({"far": "hub:some/model"}, None)
    with pytest.raises(S2DError, match="no such folder"):
        first_config({"none": str(tmp_path / "nowhere")}, None)


def test_a_file_that_is_there_is_not_written_over(checkpoint: Path, tmp_path: Path) -> None:
    draft = draft_of(tmp_path / "draft", fingerprint_of(checkpoint))
    out = tmp_path / "a.yaml"
    out.write_text("mine")
    words = ["init", "--out", str(out), f"--target=one={checkpoint}", "--draft", str(draft)]
    assert isinstance(RUNNER.invoke(app, words).exception, S2DError)
    assert out.read_text() == "mine"
