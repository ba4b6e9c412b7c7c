"""What is refused before any replica starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from s2d_ray.cli import app
from s2d_ray.config import AppConfig, PlanConfig
from s2d_ray.models.draft_files import DraftCard
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.text import fingerprint_of
from s2d_ray.serve.checks import check_config
from tests.plan_files import plan_file
from tests.tiny import tiny_checkpoint

DEPLOYMENTS = sorted((Path(__file__).parents[2] / "deployments").glob("*.yaml"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"))


def _config(model: Path, draft: dict[str, object], **target: object) -> AppConfig:
    return AppConfig.model_validate(
        {"targets": {"tiny": {"model": str(model), **target}}, "draft": draft}
    )


def _draft(folder: Path, tokenizer: str) -> dict[str, object]:
    folder.mkdir()
    card = DraftCard("base", (2, 4), 64, tokenizer, (0,))
    (folder / "draft.json").write_text(json.dumps(asdict(card)))
    return {"checkpoint": str(folder)}


def test_a_sound_config_has_no_troubles(model: Path, tmp_path: Path) -> None:
    """The same checks that refuse the rest let this one through."""
    draft = _draft(tmp_path / "draft", fingerprint_of(model))
    config = _config(model, draft, max_context=64)
    assert (
        check_config(
            config.model_copy(
                update={"plan": config.plan.model_copy(update={"exit_thresholds": (0.5,)})}
            )
        )
        == []
    )


def test_a_draft_of_another_tokenizer_is_refused(model: Path, tmp_path: Path) -> None:
    """Its ids would mean other texts, so the first proposal would already be nonsense."""
    troubles = check_config(_config(model, _draft(tmp_path / "draft", "0" * 64)))
    assert any("tokenizer" in trouble and "tiny" in trouble for trouble in troubles)


def test_missing_files_are_named(tmp_path: Path) -> None:
    """A folder that is not there, and a draft without its card."""
    (tmp_path / "empty").mkdir()
    troubles = check_config(_config(tmp_path / "nowhere", {"checkpoint": str(tmp_path / "empty")}))
    assert any("nowhere" in trouble and "targets.tiny.model" in trouble for trouble in troubles)
    assert any("draft.json" in trouble for trouble in troubles)


def test_wrong_numbers_are_named_with_the_limit(model: Path, tmp_path: Path) -> None:
    """Too long a context, too small a cache, too deep an exit, too many thresholds."""
    deep = _config(model, {"base": str(model), "exit_layers": [2, 40]}, max_context=999_999)
    troubles = check_config(deep)
    assert any(t.startswith("targets.tiny.max_context: 999999") for t in troubles)
    assert any(t.startswith("draft.exit_layers: 40") for t in troubles)
    (tight,) = check_config(
        _config(model, {"base": str(model)}, kv_cache_mib=2, max_context=2_048)
    )[:1]
    assert tight.startswith("targets.tiny.kv_cache_mib: 2 MiB hold")
    assert tight.endswith("give at least 3")
    one_exit = {"base": str(model), "exit_layers": [2]}
    assert (
        check_config(_config(model, one_exit, max_context=64)) == []
    )  # the default plan has two thresholds
    shallow = _config(model, one_exit).model_dump()
    rows = [{"plan": {}}, {"plan": {"exit_thresholds": [0.1, 0.2]}}]
    routed = AppConfig.model_validate(shallow | {"routing": {"plans": rows}})
    troubles = [t.partition(" for")[0] for t in check_config(routed) if "thresholds" in t]
    assert troubles == [
        "plan.exit_thresholds: 2 thresholds",
        "routing.plans.1.plan.exit_thresholds: 2 thresholds",
    ]


@pytest.mark.parametrize("source", ["pypi:nothing==1", "hub:nobody/nothing"])
def test_a_model_that_is_not_there_yet_is_checked_later(
    source: str, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No network before the download is announced: what is not in the cache passes for now."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert check_config(_config(model, {"base": source}, max_context=64)) == []
    assert check_config(AppConfig.model_validate({"targets": {"far": {"model": source}}})) == []


def test_a_source_that_cannot_be_is_named_with_its_key(model: Path) -> None:
    """A mistake in the string is found without a look at any network."""
    config = AppConfig.model_validate(
        {"targets": {"far": {"model": "hub:nobody"}}, "draft": {"base": "x.gguf"}}
    )
    troubles = check_config(config)
    assert troubles[0].startswith("targets.far.model: model source 'hub:nobody'")
    assert troubles[1] == "draft: x.gguf: cannot be read: No such file or directory"


@pytest.mark.parametrize("path", DEPLOYMENTS, ids=lambda path: path.name)
def test_every_shipped_config_passes_the_check_before_its_models_are_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With an empty cache and no network: what can be said of it now is that it is well-formed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checked = CliRunner().invoke(app, ["check", str(path)])
    assert checked.exit_code == 0, checked.output
    assert "well-formed" in checked.stdout
    assert not any(tmp_path.iterdir())


def test_a_tenants_file_is_checked_with_the_config(model: Path, tmp_path: Path) -> None:
    """Its own mistakes, and targets on its lists that the config does not have."""
    path = tmp_path / "tenants.yaml"
    tree = {
        "targets": {"tiny": {"model": str(model)}},
        "tenancy": {"file": str(path), "state_dir": str(tmp_path / "state")},
    }
    config = AppConfig.model_validate(tree)
    (missing,) = check_config(config)
    assert missing == f"tenancy.file: {path}: cannot be read: No such file or directory"
    path.write_text("tenants: {acme: {rpm: 3}, other: {band: x}}")
    assert len(check_config(config)) == 2
    path.write_text("tenants: {acme: {targets: [tiny, large]}}")
    (unknown,) = check_config(config)
    assert unknown.endswith("tenants.acme.targets: there is no target 'large'")
    path.write_text("tenants: {acme: {targets: [tiny]}}")
    assert check_config(config) == []


def test_a_plan_file_of_another_draft_is_refused(model: Path, tmp_path: Path) -> None:
    """By the key, whatever is wrong: no file, other sources, or other weights."""
    path = tmp_path / "plans.json"
    draft = _draft(tmp_path / "draft", fingerprint_of(model))
    config = _config(model, draft, max_context=64).model_copy(
        update={"plans": str(path), "plan": PlanConfig(exit_thresholds=(0.5,))}
    )
    [trouble] = check_config(config)
    assert trouble.startswith(f"plans: {path}: cannot be read")
    tree = plan_file()
    path.write_text(json.dumps(tree))
    troubles = check_config(config)
    assert any("made for draft /models/base" in each for each in troubles)
    assert any("targets.small: the config has no target" in each for each in troubles)
    tree["draft"]["source"] = draft["checkpoint"]
    tree["targets"] = {"tiny": tree["targets"]["small"] | {"model": str(model)}}
    path.write_text(json.dumps(tree))
    assert check_config(config) == [
        f"plans: {path}: made for other weights of the draft; calibrate again"
    ]
    tree["draft"]["weights"] = hash_of_weights(tmp_path / "draft")
    path.write_text(json.dumps(tree))
    assert check_config(config) == []
