"""Training is a function of its seed: kills, legs and processes change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import multiprocessing

from s2d_ray.models.draft_files import read
from s2d_ray.models.exits import Exits
from s2d_ray.models.sorted_draft import SortedDraft
from s2d_ray.train import resume
from s2d_ray.train.batches import HeadRows, collate
from s2d_ray.train.corpus_card import load_corpus
from s2d_ray.train.kinds import Arithmetic, Trunk
from s2d_ray.train.loss import Trainee
from s2d_ray.train.training import Leg
from s2d_ray.train.trunk import attention_of
from tests.corpora import random_corpus
from tests.ports import free_port
from tests.tiny import FAMILIES, VOCAB_SIZE, tiny_checkpoint
from tests.trainees import losses, train


class Killed(Exception):
    """Stands for a signal that ends the run."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    return random_corpus(tmp_path_factory.mktemp("corpora") / "c", checkpoint)


def same_draft(one: Path, other: Path) -> bool:
    mine, others = (load_file(out / "draft" / "draft.safetensors") for out in (one, other))
    return all(torch.equal(mine[name], others[name]) for name in mine)


@pytest.mark.parametrize("kill_after", [2, 5])
@pytest.mark.parametrize(
    ("trunk", "arithmetic"),
    [*((trunk, Arithmetic.FLOAT32) for trunk in Trunk), (Trunk.FULL, Arithmetic.BFLOAT16)],
)
def test_training_killed_and_resumed_is_training_undisturbed(
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    trunk: Trunk,
    arithmetic: Arithmetic,
    kill_after: int,
) -> None:
    """Every loss and every weight of the draft, exactly, whether the last file to go on from was
    of this step, an earlier one, or there was none yet."""
    parts = {"trunk": trunk, "arithmetic": arithmetic, "block_size": 8, "own_heads": True}
    train(checkpoint, corpus, tmp_path / "whole", **parts)
    steps = 0

    def advance(tokens: int) -> None:
        nonlocal steps
        steps += 1
        if steps == kill_after:
            raise Killed

    leg = Leg(checkpoint_minutes=0.0) if kill_after == 5 else Leg()
    with pytest.raises(Killed):
        train(checkpoint, corpus, tmp_path / "cut", leg=leg, advance=advance, **parts)
    assert (tmp_path / "cut" / resume.STATE).exists() == (kill_after == 5)
    assert train(checkpoint, corpus, tmp_path / "cut", **parts)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 6
    assert same_draft(tmp_path / "cut", tmp_path / "whole")


def test_a_run_in_legs_is_a_run_in_one(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    """A leg that is over after one step leaves a file to go on from."""
    train(checkpoint, corpus, tmp_path / "whole")
    legs = 1
    while not train(checkpoint, corpus, tmp_path / "legs", leg=Leg(minutes=1e-9)):
        assert len(losses(tmp_path / "legs")) == legs
        legs += 1
    assert legs == 6
    assert losses(tmp_path / "legs") == losses(tmp_path / "whole")
    assert same_draft(tmp_path / "legs", tmp_path / "whole")


def test_bfloat16_multiplies_only(checkpoint: Path, corpus: Path, tmp_path: Path) -> None:
    """The losses are those of float32 within its rounding, and not the same; weights are whole."""
    train(checkpoint, corpus, tmp_path / "float32")
    train(checkpoint, corpus, tmp_path / "bfloat16", arithmetic=Arithmetic.BFLOAT16)
    exact, rounded = (torch.tensor(losses(tmp_path / name)) for name in ("float32", "bfloat16"))
    assert torch.allclose(rounded, exact, rtol=2e-2, atol=0)
    assert not torch.equal(rounded, exact)
    weights = load_file(tmp_path / "bfloat16" / "draft" / "draft.safetensors")
    assert {each.dtype for name, each in weights.items() if name != "head_ids"} == {torch.float32}


def _process(rank: int, port: int, checkpoint: Path, corpus: Path, out: Path) -> None:
    import os

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    train(checkpoint, corpus, out)
    torch.distributed.destroy_process_group()


def test_two_processes_train_like_one_with_doubled_accumulation(
    checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    """The same texts make each step, so the losses agree within rounding; and they would not with
    single accumulation."""
    arguments = (free_port(), checkpoint, corpus, tmp_path / "two")
    multiprocessing.spawn(_process, arguments, nprocs=2)
    train(checkpoint, corpus, tmp_path / "one", accumulation=2)
    train(checkpoint, corpus, tmp_path / "single")
    two, one = torch.tensor(losses(tmp_path / "two")), torch.tensor(losses(tmp_path / "one"))
    assert len(one) == 6
    assert torch.allclose(two, one, rtol=1e-4, atol=0)
    assert not torch.allclose(torch.tensor(losses(tmp_path / "single")), one, rtol=1e-2, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exit_", [0, 1])
def test_an_exit_is_evaluated_as_the_truncated_network_alone(
    family: str, exit_: int, tmp_path: Path
) -> None:
    """Exits nest: what the whole draft scores at an exit is what a draft scores that has only the
    layers, norm, block and head up to it, bit for bit, after training of the whole."""
    checkpoint = tiny_checkpoint(tmp_path / "base", family)
    corpus_folder = random_corpus(tmp_path / "c", checkpoint, texts=12)
    train(checkpoint, corpus_folder, tmp_path / "run", steps=2, block_size=8, own_heads=True)
    _, whole = read(tmp_path / "run" / "draft")
    layers = whole.exit_layers[exit_]
    alone = SortedDraft(whole.config, Exits((layers,), 90, block_size=8))
    names = {f"{part}.{exit_}.": f"{part}.0." for part in ("heads", "exit_norms", "exit_blocks")}
    tensors = {}
    for name, value in whole.state_dict().items():
        kept = next(
            (new + name[len(old) :] for old, new in names.items() if name.startswith(old)), name
        )
        if kept in alone.state_dict():
            tensors[kept] = value
    alone.load_state_dict(tensors)
    corpus = load_corpus(corpus_folder)
    batch = collate(corpus.held_out, HeadRows(whole.head_ids.tolist(), VOCAB_SIZE))
    found = []
    for draft, weights in ((whole, (1.0, 1.0)), (alone, (1.0,))):
        draft.split(attention_of(draft.config))
        with torch.no_grad():
            found.append(Trainee(draft, weights, 1.0).logits(batch))
    assert torch.equal(found[0][exit_], found[1][0])
    assert not torch.equal(found[0][0], found[0][1])
