"""`s2d train`: sorted fine-tuning of a draft on a target's own text.

Every step lowers the weighted mean of all exits' losses. Source: sorted fine-tuning, SoFT (Sorted
LLaMA, arXiv 2309.08968; S2D, arXiv 2407.01955), with the target's stored probabilities in place of
hard labels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from s2d_ray.errors import DataError, RunError
from s2d_ray.models.draft_files import DraftCard
from s2d_ray.train import resume
from s2d_ray.train.batches import Batch, HeadRows, Schedule, collate
from s2d_ray.train.corpus_card import Corpus
from s2d_ray.train.corpus_files import Answer
from s2d_ray.train.loss import Sums, Trainee, measure
from s2d_ray.train.model_card import save_draft
from s2d_ray.train.options import Recipe, Run
from s2d_ray.train.resume import Log, Progress
from s2d_ray.train.trunk import merged, prepare

HELD_OUT_TEXTS = 128
"""Held-out texts that an evaluation during training reads."""

GRADIENT_NORM = 1.0
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Leg:
    """How much of a run one call does. minutes: it ends after so many, to be gone on with."""

    minutes: float | None = None
    checkpoint_minutes: float = 10.0


@dataclass(frozen=True)
class Job:
    """All that a run trains on and with."""

    run: Run
    card: DraftCard
    draft: Any
    corpus: Corpus
    out: Path
    say: Callable[[str], None] = lambda line: None
    advance: Callable[[int], None] = lambda tokens: None


class Trainer:
    """One process's part of a run."""

    def __init__(self, job: Job, accelerator: Accelerator) -> None:
        self._job = job
        self._recipe: Recipe = job.run.recipe
        self._accelerator = accelerator
        recipe = self._recipe
        weights = recipe.weights()
        trained = {exit_ for exit_, weight in enumerate(weights) if weight > 0}
        prepare(job.draft, recipe.trunk, recipe.rank, trained, recipe.seed)
        trainee = Trainee(job.draft, weights, recipe.distill, recipe.arithmetic)
        self._trainee = trainee.to(accelerator.device)
        self._optimiser = torch.optim.AdamW(
            [weight for weight in self._trainee.parameters() if weight.requires_grad],
            lr=recipe.learning_rate,
            betas=BETAS,
            weight_decay=0.0,
            fused=True,
        )
        self.progress = resume.load(job.out, self._trainee, self._optimiser)
        self._model: nn.Module = accelerator.prepare(self._trainee)
        self._head = HeadRows(job.draft.head_ids.tolist(), job.corpus.settings.vocab_size)
        self._schedule = Schedule(job.corpus.training, recipe.texts, recipe.seed)

    def train(self, leg: Leg) -> Progress:
        """Go on to the end of the run or of the leg."""
        progress, recipe = self.progress, self._recipe
        end_s = time.monotonic() + 60 * leg.minutes if leg.minutes else math.inf
        saved_s = time.monotonic()
        with ExitStack() as stack:
            tell = self._teller(stack)
            while not progress.ended:
                if progress.step == 0 and not progress.evaluations:
                    self._evaluate(tell)
                loss, late = self._step(time.monotonic() >= end_s)
                tell("training/loss", loss)
                progress.step += 1
                ended = progress.step == recipe.steps
                if ended or progress.step % recipe.evaluation_steps == 0:
                    self._evaluate(tell)
                    progress.ended = ended or progress.stale >= recipe.patience
                overdue = time.monotonic() - saved_s >= 60 * leg.checkpoint_minutes
                if self._accelerator.is_main_process and (late or overdue or progress.ended):
                    resume.save(self._job.out, progress, self._trainee, self._optimiser)
                    saved_s = time.monotonic()
                if late:
                    break
        self._accelerator.wait_for_everyone()
        return progress

    def _step(self, late: bool) -> tuple[float, bool]:
        """One update. -> mean loss of its positions, and whether any process is late."""
        accelerator, step = self._accelerator, self.progress.step
        texts = self._texts_of(step)
        total = sum(len(answer.output_ids) for part in texts for answer in part)
        own = texts[accelerator.process_index :: accelerator.num_processes]
        sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        self._set_rate(step)
        for number, part in enumerate(own, 1):
            last = number == len(own)
            with nullcontext() if last else accelerator.no_sync(self._model):
                loss = self._model(self._batch(part)) / total
                # Wrappers average gradients over processes; the step's loss is their sum.
                accelerator.backward(loss * accelerator.num_processes)
            sums[0] += loss.detach()
        accelerator.clip_grad_norm_(self._trainee.parameters(), GRADIENT_NORM)
        self._optimiser.step()
        self._optimiser.zero_grad()
        sums[1] = late
        loss_sum, num_late = accelerator.reduce(sums, "sum").tolist()
        if not math.isfinite(loss_sum):
            raise RunError(f"step {step}: the loss is {loss_sum}; lower --learning-rate")
        self.progress.tokens += total
        self._job.advance(total)
        return loss_sum, num_late > 0

    def _texts_of(self, step: int) -> list[list[Answer]]:
        """The micro-batches of one step, over all processes."""
        size = self._recipe.accumulation * self._accelerator.num_processes
        return [self._schedule.texts(step * size + number) for number in range(size)]

    def _set_rate(self, step: int) -> None:
        """A linear rise over the warm-up, then half a cosine down to 0 at the last step."""
        recipe = self._recipe
        rise = min(1.0, (step + 1) / max(1, recipe.warmup_steps))
        fall = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in self._optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rise * fall

    def _batch(self, texts: list[Answer]) -> Batch:
        return collate(texts, self._head).to(self._accelerator.device)

    def _evaluate(self, tell: Callable[[str, float], None]) -> None:
        """Measure held-out texts; keep the draft if its loss is the lowest so far."""
        progress, weights = self.progress, self._trainee.weights
        sums, total = self._measure()
        figures: dict[str, float] = {"step": progress.step, "tokens": progress.tokens}
        for exit_, found in sums.items():
            layers = self._recipe.exits[exit_]
            for name in ("loss", "agreed", "overlap"):
                figures[f"{name}_{layers}"] = round(getattr(found, name) / total, 6)
                tell(f"held_out/{name}_{layers}", figures[f"{name}_{layers}"])
        loss = sum(weights[exit_] * found.loss for exit_, found in sums.items()) / total
        progress.evaluations.append(figures)
        progress.stale = 0 if loss < progress.best_loss else progress.stale + 1
        progress.best_loss = min(loss, progress.best_loss)
        agreed = ", ".join(f"{figures[f'agreed_{self._recipe.exits[e]}']:.1%}" for e in sums)
        self._job.say(f"step {progress.step}: held-out loss {loss:.4f}, agreement {agreed}")
        if progress.stale == 0 and self._accelerator.is_main_process:
            self._keep(figures)

    @torch.no_grad()
    def _measure(self) -> tuple[dict[int, Sums], int]:
        """Sums of each trained exit over the held-out texts, shared among the processes."""
        accelerator, size = self._accelerator, self._recipe.texts
        texts = sorted(self._job.corpus.held_out[:HELD_OUT_TEXTS], key=lambda a: len(a.prompt_ids))
        parts = [texts[at : at + size] for at in range(0, len(texts), size)]
        sums = dict.fromkeys(self._trainee.weights, Sums())
        for part in islice(parts, accelerator.process_index, None, accelerator.num_processes):
            batch = self._batch(part)
            for exit_, logits in self._trainee.logits(batch).items():
                sums[exit_] += measure(logits, batch, self._recipe.distill)
        flat = torch.tensor(
            [[s.loss, s.agreed, s.overlap] for s in sums.values()],
            dtype=torch.float64,
            device=accelerator.device,
        )
        rows = accelerator.reduce(flat, "sum").tolist()
        total = sum(len(answer.output_ids) for answer in texts)
        return {exit_: Sums(*row) for exit_, row in zip(sums, rows, strict=True)}, total

    def _keep(self, figures: dict[str, float]) -> None:
        job = self._job
        save_draft(job.out / "draft", merged(job.draft), job.card, job.run, figures)

    def _teller(self, stack: ExitStack) -> Callable[[str, float], None]:
        """Scalars go to TensorBoard, training losses to the log too; on the main process only."""
        if not self._accelerator.is_main_process:
            return lambda name, value: None
        from torch.utils.tensorboard import SummaryWriter

        progress = self.progress
        log = Log(self._job.out, progress.step)
        board = SummaryWriter(self._job.out / "tensorboard", purge_step=progress.step)
        stack.callback(log.close)
        stack.callback(board.close)

        def tell(name: str, value: float) -> None:
            board.add_scalar(name, value, progress.step)
            if name == "training/loss":
                log.add(step=progress.step, loss=value, tokens=progress.tokens)

        return tell


def check_texts(corpus: Corpus, run: Run) -> None:
    """Raises DataError if a step would need more texts than the corpus has."""
    if len(corpus.training) < run.recipe.texts:
        raise DataError(
            f"{corpus.folder}: has {len(corpus.training)} training texts; --texts is "
            f"{run.recipe.texts}"
        )
