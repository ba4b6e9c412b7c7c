"""`s2d train`: which layers, which weights, which loss; and a draft that the engines take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from s2d_ray.config import DraftConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.assemble import make_draft
from s2d_ray.engine.protocol import EMPTY_DIGEST, ProposeCall, ProposeRow, RowStatus, extend_digest
from s2d_ray.errors import ConfigError, DataError, ModelError
from s2d_ray.models.draft_files import read, read_card
from s2d_ray.models.lineage import hash_of_file
from s2d_ray.models.loading import load_decoder
from s2d_ray.models.packed_draft import pack
from s2d_ray.models.sorted_draft import cut_draft
from s2d_ray.train import resume
from s2d_ray.train.batches import OUTSIDE, HeadRows, Schedule, collate
from s2d_ray.train.corpus_card import load_corpus, token_counts
from s2d_ray.train.corpus_files import Answer
from s2d_ray.train.kinds import Trunk
from s2d_ray.train.loss import Trainee, exit_loss, measure
from s2d_ray.train.options import Recipe, kept_layers
from s2d_ray.train.trunk import merged, prepare
from tests.corpora import random_answer, random_corpus
from tests.tiny import EOS, VOCAB_SIZE, tiny_checkpoint, tiny_decoder
from tests.trainees import losses, train


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    return random_corpus(tmp_path_factory.mktemp("corpora") / "c", checkpoint)


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ("all", tuple(range(30))),
        ("first:8", tuple(range(8))),
        ("last:1", (29,)),
        ("first:2,last:2", (0, 1, 28, 29)),
        ("0-5,28,29", (0, 1, 2, 3, 4, 5, 28, 29)),
        ("3", (3,)),
    ],
)
def test_layers_are_kept_as_named(spec: str, kept: tuple[int, ...]) -> None:
    """All ways of naming layers, and mixtures."""
    assert kept_layers(spec, 30) == kept


@pytest.mark.parametrize(
    "spec", ["", "first", "first:x", "some", "4-2", "3,1", "1,1", "first:20,last:20", "30", "-1"]
)
def test_layers_that_are_no_increasing_choice_are_refused(spec: str) -> None:
    """One line naming the option."""
    with pytest.raises(ConfigError, match=r"^--layers: ") as refused:
        kept_layers(spec, 30)
    assert "\n" not in refused.value.message


def test_a_subset_of_layers_is_the_base_without_the_others() -> None:
    """Kept layers come in order with their own weights, and so do their layer types."""
    base = tiny_decoder("gemma3_text", torch.float32)
    draft = cut_draft(base, range(VOCAB_SIZE), (1, 3), layers=(0, 2, 5))
    for number, layer in enumerate((0, 2, 5)):
        mine = draft.trunk.layers[number].state_dict()
        own = base.model.layers[layer].state_dict()
        assert all(torch.equal(mine[name], own[name]) for name in own)
        assert draft.config.layer_types[number] == base.config.layer_types[layer]
    with pytest.raises(ModelError, match="deepest exit is behind layer 2, but 3 layers are kept"):
        cut_draft(base, range(VOCAB_SIZE), (1, 2), layers=(0, 2, 5))


def test_exit_blocks_change_nothing_before_they_are_trained() -> None:
    """They begin as the identity: scores are those of the draft without them."""
    base = tiny_decoder(dtype=torch.float32)
    hidden = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    plain = cut_draft(base, range(VOCAB_SIZE), (2, 4))
    blocks = cut_draft(base, range(VOCAB_SIZE), (2, 4), block_size=8, own_heads=True)
    for exit_ in range(2):
        assert torch.equal(plain.exit_logits(exit_, hidden), blocks.exit_logits(exit_, hidden))
    with torch.no_grad():
        blocks.exit_blocks[1].up.weight.fill_(0.1)
        blocks.heads[0].weight.mul_(2.0)
    assert not torch.equal(plain.exit_logits(0, hidden), blocks.exit_logits(0, hidden))
    assert not torch.equal(plain.exit_logits(1, hidden), blocks.exit_logits(1, hidden))


def test_the_loss_is_the_mixture_of_both_cross_entropies(corpus: Path) -> None:
    """Against sums written out position by position, with ids outside the head left out."""
    head_ids = list(range(0, VOCAB_SIZE, 2))
    answers = load_corpus(corpus).training[:3]
    batch = collate(answers, HeadRows(head_ids, VOCAB_SIZE))
    logits = torch.randn(len(batch.rows), len(head_ids), dtype=torch.float64)
    scores = torch.log_softmax(logits, dim=-1)
    soft = hard = 0.0
    row = 0
    for answer in answers:
        for token, ids, logprobs in zip(
            answer.output_ids, answer.top_ids, answer.top_logprobs, strict=True
        ):
            for top, logprob in zip(ids.tolist(), logprobs.tolist(), strict=True):
                if top in head_ids:
                    soft -= np.exp(logprob) * float(scores[row, head_ids.index(top)])
            if int(token) in head_ids:
                hard -= float(scores[row, head_ids.index(int(token))])
            row += 1
    for distill in (0.0, 0.3, 1.0):
        expected = distill * soft + (1 - distill) * hard
        assert float(exit_loss(logits, batch, distill)) == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_lowest_at_the_targets_own_law() -> None:
    """Its gradient vanishes where the exit's law is the stored one, spread over its own mass."""
    answers = random_answers()
    batch = collate(answers, HeadRows(range(VOCAB_SIZE), VOCAB_SIZE))
    law = torch.full((len(batch.rows), VOCAB_SIZE), 1e-30, dtype=torch.float64)
    law.scatter_(1, batch.top_rows, batch.top_probs.double())
    logits = (law / law.sum(1, keepdim=True)).log().requires_grad_()
    exit_loss(logits, batch, 1.0).backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-12


def random_answers() -> list[Answer]:
    draw = np.random.default_rng(3)
    return [random_answer(draw, task, False) for task in range(3)]


def test_agreement_and_overlap_are_those_of_the_laws() -> None:
    """An exit with the target's law agrees everywhere and overlaps by all that is stored."""
    answers = random_answers()
    batch = collate(answers, HeadRows(range(VOCAB_SIZE), VOCAB_SIZE))
    law = torch.full((len(batch.rows), VOCAB_SIZE), 1e-30, dtype=torch.float64)
    law.scatter_(1, batch.top_rows, batch.top_probs.double())
    sums = measure(law.log(), batch, 1.0)
    assert sums.agreed == len(batch.rows)
    assert sums.overlap == pytest.approx(float(batch.top_probs.sum()), rel=1e-6)
    assert measure(-law.log(), batch, 1.0).agreed == 0


def test_each_row_stands_before_the_token_it_is_scored_by(corpus: Path) -> None:
    """Rows, labels and laws of padded texts belong together."""
    answers = load_corpus(corpus).training[:5]
    batch = collate(answers, HeadRows(range(VOCAB_SIZE), VOCAB_SIZE))
    flat, row = batch.token_ids.flatten(), 0
    for answer in answers:
        for place, token in enumerate(answer.output_ids):
            before = answer.output_ids[place - 1] if place else answer.prompt_ids[-1]
            assert flat[batch.rows[row]] == before
            assert batch.labels[row] == token
            assert np.array_equal(batch.top_rows[row].numpy(), answer.top_ids[place])
            row += 1
    assert row == len(batch.rows)
    some = collate(answers, HeadRows([EOS], VOCAB_SIZE))
    assert set(some.labels.tolist()) <= {0, OUTSIDE}


def test_padding_changes_no_score(checkpoint: Path, corpus: Path) -> None:
    """A text in a batch is scored as alone, within rounding."""
    draft = cut_draft(tiny_decoder(dtype=torch.float32), range(VOCAB_SIZE), (2, 4))
    draft.split("sdpa")
    trainee, head = Trainee(draft, (1.0, 1.0), 1.0), HeadRows(range(VOCAB_SIZE), VOCAB_SIZE)
    answers = load_corpus(corpus).training[:4]
    with torch.no_grad():
        together = trainee.logits(collate(answers, head))[1]
        alone = torch.cat([trainee.logits(collate([answer], head))[1] for answer in answers])
    assert torch.allclose(together, alone, atol=1e-4)


def test_an_epoch_sees_every_text_once_in_an_order_of_its_own(corpus: Path) -> None:
    """And micro-batch n is the same whenever it is asked for."""
    answers = load_corpus(corpus).training
    schedule = Schedule(answers, 3, seed=1)
    epochs = [
        [answer.task for n in range(6) for answer in schedule.texts(6 * e + n)] for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(answer.task for answer in answers)
    assert epochs[0] != epochs[1]
    again = Schedule(answers, 3, seed=1)
    assert [answer.task for answer in again.texts(8)] == epochs[1][6:9]


@pytest.mark.parametrize("trunk", list(Trunk))
def test_what_is_trained_is_what_was_asked_for(
    checkpoint: Path, corpus: Path, tmp_path: Path, trunk: Trunk
) -> None:
    """Layers change or stay by the kind of trunk; heads and norms change; embeddings never do."""
    train(checkpoint, corpus, tmp_path, trunk=trunk, block_size=8, steps=18)
    _, draft = read(tmp_path / "draft")
    base = load_decoder(checkpoint, torch.float32, torch.device("cpu"))
    start = cut_draft(base, draft.head_ids.tolist(), (2, 4), layers=(0, 1, 4, 5), block_size=8)
    before = start.state_dict()
    changed = {
        name.partition(".")[2] if name.startswith("trunk") else name.partition(".")[0]
        for name, value in draft.state_dict().items()
        if not torch.equal(value, before[name])
    }
    layers = {name for name in changed if name.startswith("layers")}
    projections = [name for name in before if "proj.weight" in name]
    assert len([name for name in layers if "proj.weight" in name]) == (
        0 if trunk is Trunk.FROZEN else len(projections)
    )
    assert any("norm" in name for name in layers) == (trunk is Trunk.FULL)
    assert changed - layers == {"heads", "exit_norms", "exit_blocks"}
    epochs = torch.tensor(losses(tmp_path)).view(3, 6).mean(1)
    assert epochs[2] < epochs[0]


def test_the_deepest_exit_alone_may_be_trained(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """A weight of 0 leaves an exit out: the other's losses are then the losses."""
    train(checkpoint, corpus, tmp_path, exit_weights=(0.0, 2.0), own_heads=True)
    figures = json.loads((tmp_path / "draft" / "training.json").read_text())
    assert "loss_4" in figures
    assert "loss_2" not in figures
    _, draft = read(tmp_path / "draft")
    assert torch.equal(draft.exit_norms[0].weight, tiny_decoder().model.norm.weight.float())
    with pytest.raises(ConfigError, match=r"^--exit-weights: must be 2 numbers"):
        Recipe(exit_weights=(1.0,)).weights()


def test_low_rank_additions_are_added_in_when_saved() -> None:
    """The merged draft scores as the one in training does, and has the names of a plain one."""
    base = tiny_decoder(dtype=torch.float32)
    draft = cut_draft(base, range(VOCAB_SIZE), (2, 4))
    names = set(draft.state_dict())
    prepare(draft, Trunk.LOW_RANK, 4, {0, 1}, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in draft.named_parameters():
            if "lora" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    whole = merged(draft)
    assert set(whole.state_dict()) == names
    ids = torch.arange(20)[None]
    whole.split("sdpa")
    with torch.no_grad():
        mine, other = (each.hidden_at_exits(ids, 2)[1] for each in (draft, whole))
        plain = cut_draft(base, range(VOCAB_SIZE), (2, 4))
        plain.split("sdpa")
        untrained = plain.hidden_at_exits(ids, 2)[1]
    assert torch.allclose(mine, other, atol=1e-4)
    assert not torch.allclose(mine, untrained, atol=1e-2)


def test_the_head_scores_what_the_corpus_writes(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """Always end tokens; then by counts of the training texts, not of the held-out ones."""
    train(checkpoint, corpus, tmp_path, steps=1)
    head = set(read(tmp_path / "draft")[1].head_ids.tolist())
    assert EOS in head
    assert len(head) == 90
    counts = token_counts(load_corpus(corpus).training)
    assert counts.total() == sum(len(a.output_ids) for a in load_corpus(corpus).training)


def test_a_trained_draft_says_where_it_is_from(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """Base, corpus, seed and recipe, by hash and by name; and how far it got."""
    train(checkpoint, corpus, tmp_path)
    card = read_card(tmp_path / "draft")
    assert card.base == str(checkpoint)
    assert card.lineage["made_by"] == "train"
    assert card.lineage["corpus"] == hash_of_file(corpus / "card.json")
    told = json.loads((tmp_path / "draft" / "training.json").read_text())
    assert told["layers"] == "first:2,last:2"
    assert card.trained_tokens == told["tokens"]
    page = (tmp_path / "draft" / "README.md").read_text()
    assert "| 4 layers |" in page
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_trained_draft_loads_in_the_engine_and_proposes(
    checkpoint: Path, corpus: Path, tmp_path: Path, precision: str
) -> None:
    """With exit blocks and heads of its own, in every place that a cut draft has."""
    train(checkpoint, corpus, tmp_path, block_size=8, own_heads=True)
    config = DraftConfig(checkpoint=str(tmp_path / "draft"), precision=precision, num_threads=1)
    draft = make_draft(config, tmp_path / "draft")
    draft.start()
    try:
        ids = tuple(range(5, 25))
        plan = Plan(exit_thresholds=(1.1,), max_proposal=3)
        digest = extend_digest(EMPTY_DIGEST, ids)
        row = ProposeRow("s", 0, ids, digest, 64, plan, seed=1, temperature=0.0)
        reply = draft.submit(ProposeCall("r", 1, 60_000.0, (row,), ())).result(timeout=60)
        assert reply.rows[0].status is RowStatus.OK
        assert len(reply.rows[0].tokens) == 3
        assert set(reply.rows[0].drafted_by) == {4}
    finally:
        draft.stop()


def test_a_draft_of_the_format_before_is_still_read(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """It had one head under another name, and a card without exit blocks."""
    train(checkpoint, corpus, tmp_path, steps=1)
    folder = tmp_path / "draft"
    _, draft = read(folder)
    tensors = load_file(folder / "draft.safetensors")
    tensors["head.weight"] = tensors.pop("heads.0.weight")
    save_file(tensors, folder / "draft.safetensors")
    fields = json.loads((folder / "draft.json").read_text()) | {"format": 1}
    del fields["own_heads"], fields["block_size"]
    (folder / "draft.json").write_text(json.dumps(fields))
    _, old = read(folder)
    mine, others = draft.state_dict(), old.state_dict()
    assert all(torch.equal(mine[name], others[name]) for name in mine)


def test_a_run_with_another_recipe_does_not_go_into_the_same_folder(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """Refused by the name of what differs."""
    train(checkpoint, corpus, tmp_path, steps=1)
    with pytest.raises(DataError, match=r"was begun with seed 1, not 2; name another folder"):
        train(checkpoint, corpus, tmp_path, steps=1, seed=2)


def test_a_run_may_begin_with_a_trained_draft(
    checkpoint: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or packed: its first loss is that of the draft, not of the base; the head stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train(checkpoint, corpus, tmp_path / "first", steps=18)
    trained = tmp_path / "first" / "draft"
    packed = pack(trained, tmp_path / "packed", lambda line: None)
    first = losses(tmp_path / "first")[0]
    for name, start in (("whole", trained), ("small", packed)):
        train(checkpoint, corpus, tmp_path / name, start=start, steps=1, learning_rate=1e-9)
        assert losses(tmp_path / name)[0] < first - 0.1
        heads = [read(tmp_path / run / "draft")[1].head_ids for run in ("first", name)]
        assert torch.equal(*heads)
        counts = [read_card(tmp_path / run / "draft").trained_tokens for run in ("first", name)]
        told = json.loads((tmp_path / name / "draft" / "training.json").read_text())
        assert counts[1] == counts[0] + told["tokens"] > 0
    assert losses(tmp_path / "whole")[0] == pytest.approx(losses(tmp_path / "small")[0], rel=1e-3)
    with pytest.raises(ModelError, match=r"--start: the draft's own_heads is False, not True"):
        train(checkpoint, corpus, tmp_path / "other", start=trained, own_heads=True)
    with pytest.raises(DataError, match="was begun with start "):
        train(checkpoint, corpus, tmp_path / "whole", steps=1, learning_rate=1e-9)


def test_a_damaged_file_to_go_on_from_is_named(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """One line, with the way out."""
    train(checkpoint, corpus, tmp_path, steps=1)
    (tmp_path / resume.STATE).write_bytes(b"half")
    with pytest.raises(DataError, match=r"resume\.safetensors: cannot be used: .*remove it"):
        train(checkpoint, corpus, tmp_path, steps=1)


def test_a_corpus_of_another_vocabulary_is_refused(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """Ids would mean other tokens."""
    index = json.loads((corpus / "index.json").read_text())
    index["settings"]["tokenizer"] = "another"
    other = tmp_path / "c"
    other.mkdir()
    for path in corpus.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="its vocabulary is not the one of"):
        train(checkpoint, other, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"exits": (2, 3)}, ConfigError, r"^--exits: the last must be 4"),
        ({"texts": 500}, DataError, r"has 18 training texts; --texts is 500"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    changes: dict[str, object],
    error: type[Exception],
    reason: str,
) -> None:
    """One line, and no folder is left that a right call would stumble over."""
    with pytest.raises(error, match=reason):
        train(checkpoint, corpus, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_run_ends_early_when_held_out_texts_get_no_better(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """The draft that is kept is the best one, not the last."""
    assert train(
        checkpoint, corpus, tmp_path, learning_rate=0.5, steps=40, evaluation_steps=1, patience=2
    )
    done = losses(tmp_path)
    assert len(done) < 40
    told = json.loads((tmp_path / "draft" / "training.json").read_text())
    assert told["step"] == len(done) - 2
