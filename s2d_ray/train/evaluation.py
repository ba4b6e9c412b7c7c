"""`s2d evaluate-draft`: what each exit of a draft is worth to each target, on held-out texts.

Exits guess behind the target's own tokens. Texts of the temperature nearest to the one evaluated
are read, and the target scores them anew, over its full vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2d_ray.config import AppConfig, DraftConfig, TargetConfig
from s2d_ray.errors import DataError, ModelError
from s2d_ray.models import draft_files, sources
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.loading import choose_device
from s2d_ray.models.ragged import RaggedModel
from s2d_ray.models.sorted_draft import DraftNetwork, SortedDraft
from s2d_ray.train.acceptance import (
    Bin,
    Coupled,
    accepted_length,
    calibration_error,
    couple,
    draw_targets,
    reliability,
)
from s2d_ray.train.corpus import target_of
from s2d_ray.train.corpus_card import Corpus, load_corpus
from s2d_ray.train.corpus_files import Answer
from s2d_ray.train.scoring import load_judge, target_logits
from s2d_ray.train.step_costs import StepCosts, step_costs
from s2d_ray.train.trunk import attention_of

TEMPERATURES = (0.0, 0.7, 1.0)
COST_CACHE_TOKENS = 512

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scope:
    """How much is evaluated. texts: held-out ones per corpus and temperature. draws: seeds of noise
    at each position. depth: guesses of a chain."""

    texts: int
    draws: int
    depth: int


@dataclass(frozen=True)
class ExitWorth:
    """One exit at one temperature."""

    accepted_length: float
    acceptance: float
    optimum: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Worth:
    """All exits for one target. by_exit: worth by exit layer and temperature."""

    target: str
    num_tokens: int
    by_exit: dict[int, dict[float, ExitWorth]]
    costs: StepCosts

    def figures(self) -> dict[str, dict[str, Any]]:
        """The published keys, by exit."""
        return {
            str(layers): {
                "agreement": round(by_temperature[0.0].acceptance, 4),
                "expected_accepted_length": _by(by_temperature, lambda w: w.accepted_length),
                "coupled_over_optimal": _by(
                    by_temperature, lambda w: w.acceptance / w.optimum if w.optimum else 1.0
                ),
                "calibration_error": _by(by_temperature, lambda w: calibration_error(w.bins)),
                "acceptance": _by(by_temperature, lambda w: w.acceptance),
                "optimum": _by(by_temperature, lambda w: w.optimum),
                "reliability": {
                    f"{temperature:g}": [
                        [bin_.count, round(bin_.confidence, 4), round(bin_.accepted, 4)]
                        for bin_ in worth.bins
                    ]
                    for temperature, worth in by_temperature.items()
                },
                "cost": {
                    "step_ms": round(self.costs.draft_ms[exit_], 3),
                    "of_target_step": round(self.costs.of_target[exit_], 4),
                },
            }
            for exit_, (layers, by_temperature) in enumerate(self.by_exit.items())
        }


def _by(worths: dict[float, ExitWorth], read: Callable[[ExitWorth], float]) -> dict[str, float]:
    return {f"{temperature:g}": round(read(worth), 4) for temperature, worth in worths.items()}


def evaluate(
    config: AppConfig,
    folder: Path,
    corpora: Sequence[Path],
    scope: Scope,
    say: Say,
    advance: Callable[[int], None],
) -> list[Worth]:
    """Evaluate the draft in `folder` for the target of each corpus; those of one target are joined.

    say: takes lines for the user. advance: takes numbers of evaluated positions.
    Raises S2DError if draft, corpora and config do not belong together.
    """
    folder = draft_files.ensure_draft(DraftConfig(checkpoint=str(folder)), report=say)
    card, draft = draft_files.read(folder)
    loaded = [(path, load_corpus(path)) for path in corpora]
    for path, corpus in loaded:
        if corpus.settings.tokenizer != card.tokenizer:
            raise ModelError(f"{path}: its vocabulary is not the draft's")
    draft.eval().requires_grad_(False).split(attention_of(draft.config))
    network = _served(config, folder)
    found = []
    for name in dict.fromkeys(corpus.settings.target for _, corpus in loaded):
        of_target = {path: each for path, each in loaded if each.settings.target == name}
        model = _load_target(name, target_of(config, name), of_target, say)
        say(f"evaluating for {name}")
        texts = [corpus.held_out for corpus in of_target.values()]
        found.append(_evaluate_for(name, model, draft, texts, scope, network, advance))
    return found


def _served(config: AppConfig, folder: Path) -> DraftNetwork:
    """The draft as the config's draft is run: its device and precision."""
    served = config.draft or DraftConfig(checkpoint=str(folder))
    device = choose_device(served.device)
    return draft_files.load_network(folder, served.precision, device, COST_CACHE_TOKENS)


def _load_target(
    name: str, target: TargetConfig, corpora: Mapping[Path, Corpus], say: Say
) -> RaggedModel:
    say(f"loading {name}")
    folder = sources.resolve(target.model, report=say)
    weights = hash_of_weights(folder)
    for path, corpus in corpora.items():
        settings = corpus.settings
        if weights != settings.weights:
            raise DataError(
                f"{path}: was written by {settings.model}, which is not what the config calls "
                f"{name}"
            )
        if target.precision != settings.precision:
            say(f"{path}: was written in {settings.precision}; judged in {target.precision}")
    return load_judge(target, folder)


def _evaluate_for(
    name: str,
    model: RaggedModel,
    draft: SortedDraft,
    held_out: Sequence[Sequence[Answer]],
    scope: Scope,
    network: DraftNetwork,
    advance: Callable[[int], None],
) -> Worth:
    worths: dict[int, dict[float, ExitWorth]] = {layers: {} for layers in draft.exit_layers}
    num_tokens = 0
    for temperature in TEMPERATURES:
        seeds = range(1, (scope.draws if temperature else 1) + 1)
        coupled: dict[int, list[Coupled]] = {layers: [] for layers in draft.exit_layers}
        texts = [_nearest(each, temperature)[: scope.texts] for each in held_out]
        for answer in chain.from_iterable(texts):
            for layers, one in _couple(model, draft, answer, temperature, seeds).items():
                coupled[layers].append(one)
            num_tokens += len(answer.output_ids)
            advance(len(answer.output_ids))
        for layers, pieces in coupled.items():
            worths[layers][temperature] = _worth(pieces, scope.depth)
    return Worth(name, num_tokens, worths, step_costs(network, model))


def _nearest(answers: Sequence[Answer], temperature: float) -> list[Answer]:
    """The texts that were drawn nearest to a temperature."""
    away = min(abs(answer.temperature - temperature) for answer in answers)
    return [answer for answer in answers if abs(answer.temperature - temperature) <= away]


@torch.inference_mode()
def _couple(
    model: RaggedModel,
    draft: SortedDraft,
    answer: Answer,
    temperature: float,
    seeds: Sequence[int],
) -> dict[int, Coupled]:
    """Each exit's guesses over one text."""
    first = len(answer.prompt_ids)
    ids = np.concatenate([answer.prompt_ids, answer.output_ids])[:-1].tolist()
    (target,) = target_logits(model, [ids], [first - 1])
    drawn = draw_targets(target, temperature, seeds, first)
    hidden = draft.hidden_at_exits(torch.tensor([ids]), draft.num_submodels)
    return {
        layers: couple(
            draft.exit_logits(exit_, hidden[exit_][0, first - 1 :]),
            draft.head_ids,
            target,
            drawn,
            temperature,
            seeds,
            first,
        )
        for exit_, layers in enumerate(draft.exit_layers)
    }


def _worth(texts: Sequence[Coupled], depth: int) -> ExitWorth:
    accepted = torch.cat([text.accepted.flatten() for text in texts])
    confidence = torch.cat([text.confidence.flatten() for text in texts])
    return ExitWorth(
        accepted_length([text.accepted.mean(dim=1) for text in texts], depth),
        float(accepted.mean()),
        float(torch.cat([text.optimum for text in texts]).mean()),
        tuple(reliability(confidence, accepted)),
    )
