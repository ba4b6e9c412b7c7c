"""`s2d evaluate-draft`: acceptance is what the coupling does, and its figures are what they say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from s2d_ray.config import AppConfig, DraftConfig, TargetConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.assemble import make_draft
from s2d_ray.engine.protocol import EMPTY_DIGEST, ProposeCall, ProposeRow, extend_digest
from s2d_ray.errors import ConfigError, DataError, ModelError
from s2d_ray.models import draft_files
from s2d_ray.models.text import Text
from s2d_ray.pictures import need_pictures
from s2d_ray.train.acceptance import (
    Bin,
    accepted_length,
    calibration_error,
    couple,
    draw_targets,
    overlap,
    reliability,
)
from s2d_ray.train.evaluation import Scope, Worth, evaluate
from s2d_ray.train.evaluation_report import report
from tests.corpora import random_corpus
from tests.tiny import VOCAB_SIZE, tiny_checkpoint, tiny_decoder, whole_draft

SCOPE = Scope(texts=4, draws=2, depth=3)
KEYS = {
    "agreement",
    "expected_accepted_length",
    "coupled_over_optimal",
    "calibration_error",
    "cost",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("models") / "target")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    return random_corpus(tmp_path_factory.mktemp("corpora") / "c", checkpoint, texts=40)


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A draft whose deepest exit is the target itself."""
    return whole_draft(tmp_path_factory.mktemp("drafts") / "draft", checkpoint, (2, 6))


def config_of(checkpoint: Path, draft: Path) -> AppConfig:
    target = TargetConfig(model=str(checkpoint), max_context=256, num_threads=1)
    return AppConfig(draft=DraftConfig(checkpoint=str(draft)), targets={"tiny": target})


@pytest.fixture(scope="module")
def worth(checkpoint: Path, draft: Path, corpus: Path) -> Worth:
    config = config_of(checkpoint, draft)
    found = evaluate(config, draft, [corpus], SCOPE, lambda line: None, lambda tokens: None)
    assert len(found) == 1
    return found[0]


def test_an_exit_that_is_the_target_is_always_right(worth: Worth) -> None:
    """Every guess accepted, whole chains and one token more, at every temperature."""
    for one in worth.by_exit[6].values():
        assert one.acceptance == 1.0
        assert one.accepted_length == 1.0 + SCOPE.depth
        assert one.optimum == pytest.approx(1.0, abs=1e-4)


def test_corpora_of_one_target_are_joined(
    worth: Worth, checkpoint: Path, draft: Path, corpus: Path, tmp_path: Path
) -> None:
    """Every figure is of the texts of both; one would hide the other in the JSON."""
    config = config_of(checkpoint, draft)
    other = random_corpus(tmp_path / "other", checkpoint, texts=40, seed=3)

    def run(*corpora: Path) -> Worth:
        (found,) = evaluate(config, draft, corpora, SCOPE, lambda line: None, lambda n: None)
        return found

    alone, joined = run(other), run(corpus, other)
    assert joined.num_tokens == worth.num_tokens + alone.num_tokens
    for temperature in (0.0, 1.0):
        parts = [each.by_exit[2][temperature] for each in (worth, alone)]
        counts = [sum(bin_.count for bin_ in part.bins) for part in parts]
        mean = sum(p.acceptance * n for p, n in zip(parts, counts, strict=True)) / sum(counts)
        assert joined.by_exit[2][temperature].acceptance == pytest.approx(mean)


def test_a_shallow_exit_is_worth_less(worth: Worth) -> None:
    """Two of six random layers are hardly ever right; the test above would else be empty."""
    for one in worth.by_exit[2].values():
        assert one.acceptance < 0.7
        assert 1.0 <= one.accepted_length < 1.0 + SCOPE.depth
        assert one.optimum < 0.9


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_coupling_accepts_within_its_bounds(temperature: float) -> None:
    """Between (1 − TV) / (1 + TV) and 1 − TV, within four standard deviations of the draws; the
    head lacks half of the ids, so the noise must be that of the full vocabulary's ids."""
    generator = torch.Generator().manual_seed(4)
    target = 2 * torch.randn(40, 30, generator=generator)
    head_ids = torch.arange(0, 30, 2)
    draft = target[:, head_ids] + torch.randn(40, 15, generator=generator)
    seeds = range(60)
    drawn = draw_targets(target, temperature, seeds, first=7)
    found = couple(draft, head_ids, target, drawn, temperature, seeds, first=7)
    shared = found.optimum.double()
    accepted = found.accepted.double().mean(1)
    spread = 4 * math.sqrt(0.25 / (len(seeds) * 40))
    assert accepted.mean() <= shared.mean() + spread
    assert accepted.mean() >= (shared / (2 - shared)).mean() - spread
    assert 0.1 < float(shared.mean()) < 0.9


def test_the_optimum_is_one_minus_total_variation() -> None:
    """Against the definition, half the sum of differences over all ids."""
    target, draft = torch.randn(5, 12), torch.randn(5, 4)
    head_ids = torch.tensor([1, 4, 5, 9])
    truth = torch.softmax(target / 0.7, -1)
    guess = torch.zeros(5, 12)
    guess[:, head_ids] = torch.softmax(draft / 0.7, -1)
    variation = 0.5 * (truth - guess).abs().sum(-1)
    assert torch.allclose(overlap(draft, head_ids, target, 0.7), 1 - variation, atol=1e-6)


def test_guess_and_confidence_are_those_of_the_engine(checkpoint: Path, draft: Path) -> None:
    """A drafted token and its confidence, for the same text, seed and position."""
    ids, temperature, seed = tuple(range(5, 25)), 0.8, 3
    plan = Plan(exit_thresholds=(1.1,), max_proposal=1)
    digest = extend_digest(EMPTY_DIGEST, ids)
    row = ProposeRow("s", 0, ids, digest, 64, plan, seed=seed, temperature=temperature)
    loop = make_draft(DraftConfig(checkpoint=str(draft), num_threads=1), draft)
    loop.start()
    try:
        reply = loop.submit(ProposeCall("r", 1, 60_000.0, (row,), ())).result(timeout=60)
    finally:
        loop.stop()
    logits = tiny_decoder(dtype=torch.float32, attention="sdpa")(
        input_ids=torch.tensor([ids]), use_cache=False
    ).logits[0, -1:]
    drawn = draw_targets(logits, temperature, [seed], first=len(ids))
    found = couple(
        logits, torch.arange(VOCAB_SIZE), logits, drawn, temperature, [seed], first=len(ids)
    )
    assert reply.rows[0].tokens == (int(drawn),)
    assert reply.rows[0].confidences[0] == pytest.approx(float(found.confidence), rel=1e-4)
    assert float(found.accepted) == 1.0


def test_accepted_length_is_that_of_all_chains() -> None:
    """With certain outcomes it counts runs: by hand for 1 1 0 1 1 and chains of two."""
    text = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0])
    assert accepted_length([text], 2) == pytest.approx(1 + (2 + 1 + 0 + 2) / 4)
    assert accepted_length([torch.full((9,), 0.5)], 3) == pytest.approx(1 + 0.5 + 0.25 + 0.125)
    assert accepted_length([torch.ones(2)], 3) == 1.0


def test_the_calibration_error_is_the_mean_distance() -> None:
    """By hand, for three bins; certain guesses fall into the last one."""
    confidence = torch.tensor([0.05, 0.05, 0.62, 0.68, 1.0])
    accepted = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    bins = reliability(confidence, accepted)
    assert [bin_.count for bin_ in bins] == [2, 2, 1]
    error = (2 * abs(0.05 - 0.5) + 2 * abs(0.65 - 0.5) + 0) / 5
    assert calibration_error(bins) == pytest.approx(error)
    assert calibration_error([Bin(7, 0.4, 0.4)]) == 0.0


def test_the_report_holds_every_figure_and_picture(
    worth: Worth, draft: Path, tmp_path: Path
) -> None:
    """The JSON line has the keys that programs read, per target and exit."""
    need_pictures()
    table, line = report([worth], SCOPE, draft, {"commit": "abc"}, tmp_path)
    tree = json.loads(line)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == tree
    assert tree["card"] == {"commit": "abc"}
    exits = tree["targets"]["tiny"]["exits"]
    assert set(exits) == {"2", "6"}
    for one in exits.values():
        bins = one["reliability"]["0"]
        accepted = sum(count * share for count, _, share in bins) / sum(n for n, _, _ in bins)
        assert accepted == pytest.approx(one["agreement"], abs=1e-3)
    for figures in exits.values():
        assert set(figures) >= KEYS
        assert set(figures["expected_accepted_length"]) == {"0", "0.7", "1"}
        assert figures["cost"]["step_ms"] > 0
    assert exits["6"]["agreement"] == 1.0
    assert len(table.splitlines()) == 4 + 2 * 3
    for name in ("reliability-tiny.png", "acceptance-tiny.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_target_must_be_the_one_that_wrote_the_corpus(
    draft: Path, corpus: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Other weights, another name or another vocabulary are refused by name."""

    def run(config: AppConfig) -> None:
        evaluate(config, draft, [corpus], SCOPE, lambda line: None, lambda tokens: None)

    other = tiny_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(DataError, match="is not what the config calls tiny"):
        run(config_of(other, draft))
    config = config_of(checkpoint, draft)
    with pytest.raises(ConfigError, match="no target 'tiny'; there are big"):
        run(config.model_copy(update={"targets": {"big": config.targets["tiny"]}}))
    card = draft_files.read_card(draft)
    assert card.tokenizer == Text(checkpoint).fingerprint
    foreign = tmp_path / "draft"
    foreign.mkdir()
    for path in draft.iterdir():
        (foreign / path.name).write_bytes(path.read_bytes())
    fields = json.loads((foreign / "draft.json").read_text()) | {"tokenizer": "another"}
    (foreign / "draft.json").write_text(json.dumps(fields))
    with pytest.raises(ModelError, match="its vocabulary is not the draft's"):
        evaluate(config, foreign, [corpus], SCOPE, lambda line: None, lambda tokens: None)


def test_a_target_in_another_precision_judges_for_itself(
    draft: Path, corpus: Path, checkpoint: Path
) -> None:
    """Texts of the same weights will do; the command says so."""
    config = config_of(checkpoint, draft)
    changed = config.targets["tiny"].model_copy(update={"precision": "bfloat16"})
    config = config.model_copy(update={"targets": {"tiny": changed}})
    said: list[str] = []
    (worth,) = evaluate(config, draft, [corpus], SCOPE, said.append, lambda tokens: None)
    assert f"{corpus}: was written in float32; judged in bfloat16" in said
    assert 0.9 < worth.by_exit[6][0.0].acceptance < 1
