"""Models of the hub, against a hub on a local port: what is fetched, once, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

from s2d_ray.errors import ModelError
from s2d_ray.models.cache import cached_models, read_lineage
from s2d_ray.models.loading import load_decoder
from s2d_ray.models.sources import find, resolve
from s2d_ray.models.text import Text
from s2d_ray.models_cli import models_app
from tests.fakes_hub import COMMIT, FakeHub, point_hub_at, serve_hub
from tests.tiny import tiny_checkpoint

REPO = "some-org/tiny-model"
SOURCE = f"hub:{REPO}"
JUNK = {
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"the same once more",
    "original/model.safetensors": b"and again",
    "modeling_tiny.py": b"raise SystemExit",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tiny_checkpoint(tmp_path_factory.mktemp("model"), layers=2)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(
    checkpoint: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeHub]:
    """A hub with one model, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub = FakeHub(REPO, checkpoint | JUNK)
    with serve_hub(hub, monkeypatch):
        yield hub


def refusal(source: str = SOURCE) -> str:
    with pytest.raises(ModelError) as refused:
        resolve(source)
    assert "\n" not in refused.value.message
    assert refused.value.message.startswith(f"{source}: ")
    return refused.value.message


def test_a_model_is_fetched_and_loads(hub: FakeHub, checkpoint: dict[str, bytes]) -> None:
    """Safetensors, configs and the tokenizer come, byte for byte, and nothing else."""
    folder = resolve(SOURCE)
    assert hub.fetched() == sorted(checkpoint)
    assert {path.name for path in folder.iterdir()} == {*checkpoint, "lineage.json"}
    assert all((folder / name).read_bytes() == content for name, content in checkpoint.items())
    load_decoder(folder, torch.float32, torch.device("cpu"))
    assert Text(folder).vocab_size == 100


def test_the_commit_is_pinned_when_it_is_fetched(hub: FakeHub) -> None:
    """The main branch may move on; what lies in the cache stays, and says what it is."""
    folder = resolve(SOURCE)
    assert read_lineage(folder) == {"source": f"{SOURCE}@{COMMIT}", "commit": COMMIT}
    hub.refs["main"] = "2" * 40
    assert resolve(SOURCE) == folder
    assert [model.source for model in cached_models()] == [f"{SOURCE}@{COMMIT}"]


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3", COMMIT])
def test_a_revision_is_fetched_and_has_a_folder_of_its_own(hub: FakeHub, revision: str) -> None:
    hub.refs[revision] = COMMIT
    folder = resolve(f"{SOURCE}@{revision}")
    assert folder != resolve(SOURCE)
    assert read_lineage(folder)["commit"] == COMMIT


def test_a_model_in_the_cache_needs_no_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request at all, also where the hub is out of reach or ruled out."""
    assert find(SOURCE) is None
    assert hub.requests == []
    folder = resolve(SOURCE)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find(SOURCE) == resolve(SOURCE) == folder
    assert hub.requests == []


def test_offline_a_missing_model_is_named_with_what_to_do(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal()
    assert "HF_HUB_OFFLINE is set" in message
    assert f"`s2d models pull {SOURCE}`" in message
    assert "a local folder" in message
    assert hub.requests == []


@pytest.mark.usefixtures("hub")
def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_at("http://127.0.0.1:9", monkeypatch)
    message = refusal()
    assert "the hub cannot be reached" in message
    assert f"`s2d models pull {SOURCE}`" in message


def test_a_hub_that_is_broken_is_one_line(hub: FakeHub) -> None:
    hub.status = 418
    assert "the hub answered 418" in refusal()


def test_an_unknown_or_private_model_is_one_line(hub: FakeHub) -> None:
    """The hub does not tell the two apart, to whoever may not know."""
    assert "no such model, or it is private" in refusal("hub:some-org/other-model")
    assert hub.fetched() == []


@pytest.mark.usefixtures("hub")
def test_an_unknown_revision_is_named() -> None:
    assert "no revision 'v9'" in refusal(f"{SOURCE}@v9")


def test_a_gated_model_needs_a_token_from_the_environment(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is sent to the hub, and appears in no message, log or file. A token that lies in a file is
    not looked for."""
    caplog.set_level(logging.DEBUG)
    hub.gated_by = "hf_secret"
    message = refusal()
    assert "gated: accept its terms" in message
    assert "HF_TOKEN" in message
    assert {authorization for *_, authorization in hub.requests} == {None}
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    lines: list[str] = []
    folder = resolve(SOURCE, report=lines.append)
    assert "Bearer hf_secret" in {authorization for *_, authorization in hub.requests}
    written = b"".join(path.read_bytes() for path in folder.parent.rglob("*") if path.is_file())
    assert b"hf_secret" not in written
    assert "hf_secret" not in caplog.text + "".join(lines) + message


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_repository_without_a_needed_file_is_refused_before_a_download(
    hub: FakeHub, missing: str
) -> None:
    """Pickled weights, or those of another tool, are no weights here."""
    del hub.files[missing]
    assert f"has no {missing}" in refusal()
    assert hub.fetched() == []


def test_an_interrupted_download_goes_on_where_it_was(
    hub: FakeHub, checkpoint: dict[str, bytes]
) -> None:
    """What is half there does not count as a model, and what is whole is not fetched again."""
    hub.failing.add("model.safetensors")
    assert "the hub" in refusal()
    assert find(SOURCE) is None
    assert cached_models() == []
    hub.failing.clear()
    before = set(hub.fetched())
    assert "config.json" in before
    hub.requests.clear()
    resolve(SOURCE)
    assert set(hub.fetched()) == set(checkpoint) - (before - {"model.safetensors"})


def test_shards_are_fetched_and_a_missing_one_is_named(hub: FakeHub) -> None:
    """An index that names more shards than the repository has is found out."""
    weights = hub.files.pop("model.safetensors")
    hub.files["model-00001-of-00002.safetensors"] = weights
    shards = ", ".join(f'"{n}": "model-0000{n}-of-00002.safetensors"' for n in (1, 2))
    hub.files["model.safetensors.index.json"] = f'{{"weight_map": {{{shards}}}}}'.encode()
    with pytest.raises(ModelError, match="model-00002-of-00002.safetensors: missing"):
        resolve(SOURCE)
    hub.refs["main"] = hub.refs["2" * 40] = "2" * 40
    hub.files["model-00002-of-00002.safetensors"] = weights
    folder = resolve(SOURCE)
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == weights


@pytest.mark.usefixtures("hub")
def test_pull_and_list_know_the_hub() -> None:
    pulled = CliRunner().invoke(models_app, ["pull", SOURCE])
    assert pulled.exit_code == 0, pulled.output
    assert pulled.stdout.split() == [str(resolve(SOURCE))]
    assert f"{SOURCE}@{COMMIT}" in CliRunner().invoke(models_app, ["list"]).stdout
