"""The sorted draft on disk: cut once, read back whole, refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from s2d_ray.config import DraftConfig, Precision
from s2d_ray.errors import ModelError
from s2d_ray.models import draft_files
from s2d_ray.models.attention import Segment
from s2d_ray.models.draft_files import (
    DraftCard,
    ensure_draft,
    load_network,
    read_card,
    shape_of,
    trimmed_ids,
)
from s2d_ray.models.text import fingerprint_of
from s2d_ray.train.options import Recipe
from tests.tiny import EOS, FAMILIES, VOCAB_SIZE, tiny_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def small_head(base: Path, exit_layers: tuple[int, ...] = (2, 4)) -> DraftConfig:
    # The config asks for real head sizes; the tiny vocabulary is below its lower bound.
    fields = DraftConfig(base=str(base), exit_layers=exit_layers).model_dump() | {"head_size": 80}
    return DraftConfig.model_construct(**fields)


@pytest.fixture
def draft(base: Path, cache: Path) -> Path:
    return ensure_draft(small_head(base))


def test_a_cut_draft_knows_what_it_is_and_loads(base: Path, draft: Path) -> None:
    """The card names base, exits, tokenizer and end tokens, and the network runs with them."""
    card = read_card(draft)
    assert card == DraftCard(
        base=str(base),
        exit_layers=(2, 4),
        head_size=80,
        tokenizer=fingerprint_of(base),
        eos_token_ids=(EOS,),
        lineage=card.lineage,
    )
    assert card.trained_tokens == 0
    network = load_network(draft, "float32", CPU, 128)
    assert network.exit_layers == (2, 4)
    assert EOS in network.head_ids.tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "int8", "int4"])
@pytest.mark.usefixtures("int8_everywhere")
def test_a_draft_of_each_family_runs_in_each_precision(
    family: str, precision: Precision, tmp_path: Path, cache: Path
) -> None:
    """Its scores stay close to those in float32, also at positions where a rope with rounded
    frequencies would point elsewhere."""
    folder = ensure_draft(small_head(tiny_checkpoint(tmp_path / "base", family, layers=4)))
    scores = []
    for each in ("float32", precision):
        network = load_network(folder, each, CPU, 1_536)
        run = network.pool.allocator.reserve(1_500)
        assert run is not None
        ids = [5 + index % 90 for index in range(30)]
        hidden = network.run_group(0, ids, [Segment(run, 1_400, 30)])
        hidden = network.run_group(1, [], [Segment(run, 1_400, 30)])
        scores.append(network.exit_logits(1, hidden)[0].float())
    error = (scores[1] - scores[0]).std()
    assert error < 0.05 * scores[0].std()


def test_a_draft_is_cut_once(base: Path, draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second start reads it: same folder, same bytes, no base model loaded."""
    before = (draft / "draft.safetensors").stat().st_mtime_ns

    def refuse(*_: object) -> None:
        raise AssertionError("cut again")

    monkeypatch.setattr(draft_files, "_cut_into", refuse)
    assert ensure_draft(small_head(base)) == draft
    assert (draft / "draft.safetensors").stat().st_mtime_ns == before


def test_an_interrupted_cut_is_done_again(base: Path, draft: Path) -> None:
    """A folder without a card is not a draft, and what a killed run left is no obstacle."""
    tensors = load_file(draft / "draft.safetensors")
    leftover = draft.with_suffix(".partial")
    leftover.mkdir()
    (leftover / "draft.safetensors").write_text("half")
    shutil.rmtree(draft)
    assert ensure_draft(small_head(base)) == draft
    again = load_file(draft / "draft.safetensors")
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert not leftover.exists()


def test_other_exits_are_another_draft(base: Path, draft: Path) -> None:
    """The folder is named by everything the cut depends on."""
    assert ensure_draft(small_head(base, (3, 6))) != draft


def test_a_configured_checkpoint_is_used_in_place(draft: Path) -> None:
    """`draft.checkpoint` names the folder itself."""
    assert ensure_draft(DraftConfig(checkpoint=str(draft))) == draft


def test_a_draft_is_trained_in_the_shape_that_the_config_says(tmp_path: Path) -> None:
    """Cut, shipped or trained from other layers than the first; unchanged for the quickstart."""
    cut = shape_of(DraftConfig(base="m", exit_layers=(3, 9), head_size=300))
    assert (cut.layers, cut.exits, cut.head_size) == ("first:9", (3, 9), 300)
    shipped, usual = shape_of(DraftConfig(checkpoint="shipped:smollm2-135m")), Recipe()
    assert (shipped.layers, shipped.exits) == (usual.layers, usual.exits)
    assert shipped.head_size == usual.head_size
    card = DraftCard("m", (1, 3), 400, "t", (0,), layers=(0, 1, 29))
    draft_files.write_card(tmp_path, card)
    assert shape_of(DraftConfig(checkpoint=str(tmp_path))).layers == "0,1,29"


def test_other_weights_in_the_same_folder_make_another_draft(base: Path, cache: Path) -> None:
    """A draft that was cut before is not taken for one of what lies there now."""
    config = small_head(base, (2, 4))
    before = ensure_draft(config)
    [weights] = base.glob("*.safetensors")
    assert ensure_draft(config) == before
    os.utime(weights, ns=(0, 1))
    assert draft_files.draft_folder(config) != before


def test_exits_deeper_than_the_base_leave_no_draft_behind(base: Path, cache: Path) -> None:
    """The refusal names the field, and the next start does not find half a draft."""
    config = small_head(base, (4, 7))
    with pytest.raises(ModelError, match=r"^draft\.exit_layers: 7 is more than the 6 layers"):
        ensure_draft(config)
    assert not draft_files.draft_folder(config).exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("missing", "draft.json: cannot be read: No such file"),
        ("garbage", "draft.json: not a draft card"),
        ("not an object", "draft.json: not a draft card"),
        ("a field less", "draft.json: not a draft card"),
        ("an unknown field", "draft.json: not a draft card"),
        ("another format", "draft.json: format 99 is not read here, only 1 to 2; update"),
    ],
)
def test_a_damaged_card_is_refused_in_one_line(draft: Path, damage: str, reason: str) -> None:
    """It is read before any replica starts, and the line names the file."""
    card = draft / "draft.json"
    fields = asdict(read_card(draft))
    less = {name: value for name, value in fields.items() if name != "tokenizer"}
    if damage == "missing":
        card.unlink()
    else:
        card.write_text(
            {
                "garbage": "{",
                "not an object": "[]",
                "a field less": json.dumps(less),
                "an unknown field": json.dumps(fields | {"colour": "red"}),
                "another format": json.dumps(fields | {"format": 99, "of_format_99": 1}),
            }[damage]
        )
    with pytest.raises(ModelError) as refused:
        ensure_draft(DraftConfig(checkpoint=str(draft)))
    assert reason in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("damage", ["missing", "truncated", "other exits"])
def test_tensors_that_do_not_fit_are_refused_in_one_line(draft: Path, damage: str) -> None:
    """Missing, cut off, or of another cut than the card says."""
    path = draft / "draft.safetensors"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        fields = asdict(read_card(draft)) | {"exit_layers": [1, 2, 4]}
        (draft / "draft.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match=r"draft\.safetensors") as refused:
        load_network(draft, "float32", CPU, 128)
    assert "\n" not in refused.value.message


def test_the_trimmed_vocabulary_always_holds_specials_and_single_characters(base: Path) -> None:
    """A draft must be able to guess EOS and to spell; the rest are the lowest ids."""
    vocabulary = Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab()
    ids = trimmed_ids(base, VOCAB_SIZE)
    assert ids == sorted(set(ids)) == sorted(vocabulary.values())
    assert EOS in trimmed_ids(base, 80)
    assert len(trimmed_ids(base, 80)) == 80


def test_a_head_larger_than_the_vocabulary_is_refused(base: Path) -> None:
    """One line with the field and both numbers."""
    with pytest.raises(ModelError, match=r"^draft\.head_size: 101 is more than 100 tokens$"):
        trimmed_ids(base, 101)
