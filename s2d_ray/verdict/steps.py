"""The steps to a verdict, each by the command's own function, each left out if it is done."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from s2d_ray.bench import spec
from s2d_ray.bench.card import config_hash, host_card
from s2d_ray.bench.questions import choose, read_questions
from s2d_ray.config import AppConfig
from s2d_ray.errors import ConfigError, DataError
from s2d_ray.job_folder import begin, write_atomically
from s2d_ray.models import draft_files
from s2d_ray.models.lineage import hash_of_file, hash_of_weights
from s2d_ray.pictures import need_pictures
from s2d_ray.policy.tasks import Task
from s2d_ray.report import shapes
from s2d_ray.report.page import render
from s2d_ray.report.sources import Source, read_source
from s2d_ray.train.corpus import CorpusOptions, make_corpus
from s2d_ray.train.corpus_card import load_corpus
from s2d_ray.train.evaluation import Scope, evaluate
from s2d_ray.train.evaluation_report import report as report_evaluation
from s2d_ray.train.terminal import token_bar
from s2d_ray.tuning import calibrate, gather, search
from s2d_ray.tuning.gather import Scale
from s2d_ray.tuning.prompts import Asked, built_in, of_questions
from s2d_ray.tuning.search import Grid
from s2d_ray.verdict.criteria import Verdict, judge, section

EVERY_TOKEN = 10**9
"""A corpus ends with its prompts."""

CATEGORIES = {Task.CHAT: "qa", Task.CODE: "coding", Task.CONTEXT: "summarization"}
"""Under which of Spec-Bench's categories the built-in prompts are asked."""


@dataclass(frozen=True)
class Size:
    """How much is measured. plans: of the benchmark, empty for all. texts, draws: of evaluation.
    settles: it is enough for a no; else the exit code minds only whether texts are identical."""

    num_prompts: int
    corpus_tokens: int
    texts: int
    draws: int
    scale: Scale
    grid: Grid
    plans: tuple[str, ...]
    per_group: int
    max_new_tokens: int
    settles: bool


QUICK = Size(16, 24, 4, 1, gather.QUICK, search.QUICK, ("cascade", "tier-0"), 4, 16, False)
WHOLE = Size(500, 96, 64, 2, gather.WHOLE, search.WHOLE, (), 12, 128, True)


@dataclass(frozen=True)
class Settings:
    """What a run was asked for. config: with the draft that is judged. targets: empty means all.

    corpora: finished ones, of targets of the config; for others one is written. hop: seconds of
    a call of the draft, measured in the folder it is given.
    """

    config: AppConfig
    out: Path
    hop: Callable[[Path], float]
    targets: tuple[str, ...] = ()
    corpora: tuple[Path, ...] = ()
    questions: Path | None = None
    size: Size = WHOLE
    seed: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The targets to judge. Raises ConfigError for one the config lacks."""
        for name in self.targets:
            if name not in self.config.targets:
                held = ", ".join(self.config.targets)
                raise ConfigError(f"--target: {name} is none of the config's: {held}")
        return self.targets or tuple(self.config.targets)


def run(settings: Settings) -> int:
    """All steps, the page, the line. -> exit code; see `status_of`."""
    need_pictures()
    names, out = settings.names, settings.out
    if settings.config.draft is None:
        raise ConfigError("verdict: the config has no draft; name one with --draft")
    _check_corpora(settings)
    folder = draft_files.ensure_draft(settings.config.draft, report=_say)
    begin(out, _identity(settings, hash_of_weights(folder)))
    with redirect_stdout(sys.stderr):  # the steps' own tables and lines
        asked, questions = _questions(settings)
        _say("1 of 4: texts of each target")
        corpora = [_corpus(settings, name, questions) for name in names]
        _say("2 of 4: what each exit guesses")
        _evaluate(settings, folder, corpora)
        _say("3 of 4: costs, chances, plans")
        _calibrate(settings, asked)
        _say("4 of 4: speed over plain decoding")
        _bench(settings, questions)
    sources = [read_source(out / name) for name in ("evaluation", "calibration", "bench")]
    verdicts = [_judge(name, *sources[1:]) for name in names]
    page = render(sources, title="Verdict on a draft", first=[section(verdicts)])
    write_atomically(out / "verdict.html", page)
    line = json.dumps({"verdicts": {each.target: each.to_json() for each in verdicts}})
    write_atomically(out / "verdict.json", f"{line}\n")
    for each in verdicts:
        print(f"{each.target}: {each.sentence}")
    print(f"{out / 'verdict.html'}\n{line}")
    return status_of(verdicts, settings.size)


def status_of(verdicts: Sequence[Verdict], size: Size) -> int:
    """0 if the draft earns its place everywhere, or might by all that so small a run can say."""
    good = (each.earns if size.settles else each.identical for each in verdicts)
    return 0 if all(good) else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _identity(settings: Settings, draft: str) -> dict[str, Any]:
    """What the folder depends on."""
    path = settings.questions
    return {
        "config": config_hash(settings.config),
        "draft": draft,
        "targets": list(settings.names),
        "corpora": [str(path) for path in settings.corpora],
        "questions": None if path is None or not path.is_file() else hash_of_file(path),
        "size": asdict(settings.size),
        "seed": settings.seed,
    }


def _check_corpora(settings: Settings) -> None:
    """Raises ConfigError for a corpus of a target that is not judged."""
    for folder in settings.corpora:
        wrote = load_corpus(folder).settings.target
        if wrote not in settings.names:
            judged = ", ".join(settings.names)
            raise ConfigError(f"--corpus: {folder} was written by {wrote}; judged are {judged}")


def _questions(settings: Settings) -> tuple[list[Asked], Path]:
    """What is calibrated on, and a file of what the benchmark asks.

    With built-in prompts these are two halves. Raises DataError for a file that cannot be read.
    """
    if settings.questions is not None:
        asked = of_questions(choose(read_questions(settings.questions), None, True), 0)
        if not asked:
            raise DataError(f"{settings.questions}: has no question with an odd number")
        return asked, settings.questions
    lines = [
        {
            "question_id": each.number,
            "category": CATEGORIES[Task(each.task(len(each.text) // 4))],
            "turns": [each.text],
        }
        for each in built_in(1)
    ]
    path = settings.out / "questions.jsonl"
    write_atomically(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    return built_in(0), path


def _corpus(settings: Settings, name: str, questions: Path) -> Path:
    """A finished corpus of a target: one that was given, or written now."""
    for folder in settings.corpora:
        if load_corpus(folder).settings.target == name:
            return folder
    size, out = settings.size, settings.out / f"corpus-{name}"
    options = CorpusOptions(
        target=name,
        out=out,
        prompts=_prompts(settings, questions),
        num_prompts=size.num_prompts,
        tokens=EVERY_TOKEN,
        max_tokens=size.corpus_tokens,
        held_out=0.5,
        seed=settings.seed,
    )
    with token_bar(f"{name} writes", None) as (say, advance):
        make_corpus(settings.config, options, say, advance)
    return out


def _prompts(settings: Settings, questions: Path) -> Path:
    """The file of questions, or one of all built-in prompts."""
    if settings.questions is not None:
        return questions
    path = settings.out / "prompts.jsonl"
    texts = [each.text for half in (0, 1) for each in built_in(half)]
    write_atomically(path, "".join(f"{json.dumps({'prompt': text})}\n" for text in texts))
    return path


def _evaluate(settings: Settings, draft: Path, corpora: Sequence[Path]) -> None:
    out, size = settings.out / "evaluation", settings.size
    if (out / "evaluation.json").exists():
        return
    scope = Scope(size.texts, size.draws, max(1, settings.config.plan.max_proposal))
    with token_bar("evaluating", None) as (say, advance):
        worths = evaluate(settings.config, draft, corpora, scope, say, advance)
    card = host_card(settings.config) | {
        "draft": draft.name,
        "scale": f"{size.texts} texts by temperature, noise of seeds 1 to {size.draws}",
    }
    report_evaluation(worths, scope, draft, card, out)


def _calibrate(settings: Settings, asked: Sequence[Asked]) -> None:
    work, size = settings.out / "calibration", settings.size
    if (work / "report.json").exists():
        return
    calibrate.run(
        calibrate.Settings(
            settings.config,
            asked,
            work,
            work / calibrate.PLANS,
            size.scale,
            size.grid,
            settings.hop(work),
            settings.names,
            settings.seed,
        )
    )


def _bench(settings: Settings, questions: Path) -> None:
    out, size = settings.out / "bench", settings.size
    if (out / "report.json").exists():
        return
    spec.run(
        spec.Settings(
            settings.config,
            questions,
            out,
            settings.names,
            size.plans,
            size.max_new_tokens,
            size.per_group,
            first_turns=True,
            seed=settings.seed,
        )
    )


def _judge(name: str, calibration: Source, bench: Source) -> Verdict:
    """By the answers to single questions, and the errors of all maps of the target."""
    assert isinstance(calibration.result, shapes.Calibrate)
    errors = {
        task: [error for error in one.calibration_error.values() if error is not None]
        for task, one in calibration.result.targets[name].items()
    }
    return judge(name, [each for each in bench.answers if each.target == name], errors)
