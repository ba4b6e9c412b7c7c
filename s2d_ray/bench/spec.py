"""`s2d bench spec`: speculation against plain decoding on the questions of Spec-Bench.

Texts one by one. Every plan answers a question in turn, with its own earlier answers in the
conversation, so what is compared was measured side by side.
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from s2d_ray.bench import spec_report
from s2d_ray.bench.alternate import Case, Method, in_turn, warm_up
from s2d_ray.bench.bar import StderrBar, stderr_bar
from s2d_ray.bench.card import config_hash, host_card
from s2d_ray.bench.checkout import commit
from s2d_ray.bench.figures import Written
from s2d_ray.bench.questions import Question, choose, read_questions, shortest
from s2d_ray.bench.rig import Parts
from s2d_ray.bench.spec_answers import AnswerFile
from s2d_ray.bench.spec_figures import Answer, Answered, joined
from s2d_ray.bench.spec_plans import choose_plans, make_methods, plan_file_of
from s2d_ray.config import AppConfig, TargetConfig
from s2d_ray.errors import ConfigError, DataError
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.text import Text
from s2d_ray.pictures import need_pictures
from s2d_ray.plan_file import PlanFile

QUICK_TOKENS = 16
"""Longest answer of a quick run."""


@dataclass(frozen=True)
class Settings:
    """What a run was asked for. targets, plans: empty means all. limit_per_group: None: all."""

    config: AppConfig
    questions: Path
    out: Path
    targets: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    max_new_tokens: int = 1_024
    limit_per_group: int | None = None
    first_turns: bool = False
    temperature: float = 0.0
    quick: bool = False
    seed: int = 1

    def chosen(self) -> list[Question]:
        """The questions to answer, in order; of a quick run the shortest of each group."""
        questions = read_questions(self.questions)
        if self.quick:
            questions = shortest(questions)
        return choose(questions, self.limit_per_group, self.first_turns)

    def target_configs(self) -> dict[str, TargetConfig]:
        """The targets to measure, by name. Raises ConfigError for one the config lacks."""
        held = self.config.targets
        for name in self.targets:
            if name not in held:
                raise ConfigError(f"--target: {name} is none of the config's: {', '.join(held)}")
        return {name: held[name] for name in self.targets or held}


class Interviewer:
    """Asks questions of one target under any method."""

    def __init__(self, settings: Settings, text: Text, max_context: int) -> None:
        self._settings = settings
        self._text = text
        self._max_context = max_context

    def case(self, question: Question, messages: Sequence[Mapping[str, str]]) -> Case | None:
        """The next answer of a conversation; None if the context has no room for a token of it."""
        ids = self._text.encode_chat(messages)
        room = self._max_context - len(ids)
        if room < 1:
            return None
        settings = self._settings
        return Case(
            f"question {question.question_id}",
            (tuple(ids),),
            min(settings.max_new_tokens, room),
            seed=100_000 * settings.seed + 10 * question.question_id + len(messages) // 2,
            temperature=settings.temperature,
            end_ids=tuple(sorted(self._text.eos_token_ids)),
        )

    def opening(self, question: Question) -> Case:
        """The first answer. Raises DataError if the question is too long."""
        case = self.case(question, [_message("user", question.turns[0])])
        if case is None:
            raise DataError(
                f"question {question.question_id} does not fit in max_context "
                f"{self._max_context} of the target; raise it in the config"
            )
        return case

    def ask(self, question: Question, method: Method) -> Answer:
        """All turns, or those that fit in the context."""
        messages: list[dict[str, str]] = []
        answers: list[Written] = []
        seconds = 0.0
        for turn in question.turns:
            messages.append(_message("user", turn))
            case = self.case(question, messages)
            if case is None:
                break
            started_s = time.perf_counter()
            written = method(case)
            seconds += time.perf_counter() - started_s
            answers.append(written)
            messages.append(_message("assistant", self._text.decode(written.texts[0]).strip()))
        return joined(answers, seconds)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def answer_all(
    settings: Settings,
    name: str,
    plans: Sequence[str],
    plan_file: PlanFile | None,
    questions: Sequence[Question],
    file: AnswerFile,
    bar: StderrBar,
) -> None:
    """Let one target answer under all plans what it has not answered yet."""
    answered = {each.question_id for each in file.held if each.target == name}
    left = [number for number, each in enumerate(questions) if each.question_id not in answered]
    if not left:
        return
    with ExitStack() as stack:
        parts = _parts(settings.config, name, stack, bar)
        methods = make_methods(parts, plans, plan_file)
        target = parts.first.target
        interviewer = Interviewer(settings, target.text, target.batch.limits.max_context)
        openings = [interviewer.opening(questions[number]) for number in left]
        warm_up(methods, min(openings, key=lambda case: len(case.prompts[0])))
        advance = bar.open(name, len(left) * len(plans))
        for number in left:
            question = questions[number]
            answers = {}
            for plan in in_turn(plans, number):
                answers[plan] = interviewer.ask(question, methods[plan])
                advance(f"question {question.question_id} {plan}")
            ordered = {plan: answers[plan] for plan in plans}
            found = Answered(name, question.question_id, question.group, commit(), ordered)
            file.append(found)
    gc.collect()  # the next target needs the memory


def _parts(config: AppConfig, name: str, stack: ExitStack, bar: StderrBar) -> Parts:
    """Engines for one target of the config alone."""
    alone = config.model_copy(update={"targets": {name: config.targets[name]}})
    return Parts(alone, stack, bar.say)


def run(settings: Settings) -> int:
    """Answer, report, print. -> exit code: 1 if a plan of ours wrote other ids than plain."""
    need_pictures()
    if settings.quick:
        settings = quickly(settings)
    targets, questions = settings.target_configs(), settings.chosen()
    plan_file = plan_file_of(settings.config)
    with ExitStack() as stack:
        bar = stack.enter_context(stderr_bar())
        parts = _parts(settings.config, next(iter(targets)), stack, bar)
        plans = choose_plans(parts.exits, settings.plans, has_file=plan_file is not None)
        draft = hash_of_weights(parts.draft_folder)
        identity = _identity(settings, questions, plans, plan_file, draft)
        file = AnswerFile(settings.out, identity)
        shown = card(settings, parts, len(questions))
        for name, value in shown.items():
            print(f"{name:<10} {value}", flush=True)
        for name in targets:
            answer_all(settings, name, plans, plan_file, questions, file, bar)
    held = [each for each in file.held if each.target in targets]
    shown["commit"] = ", ".join(dict.fromkeys(each.commit for each in held))
    table, line, wrong = spec_report.report(held, list(targets), plans, shown, settings.out)
    print(f"\n{table}\n")
    for name in wrong:
        print(f"DIFFERS  {name}")
    print(line)
    return 1 if wrong else 0


def quickly(settings: Settings) -> Settings:
    """The same with what `--quick` means."""
    return replace(
        settings,
        targets=settings.targets or tuple(settings.config.targets)[:1],
        max_new_tokens=min(settings.max_new_tokens, QUICK_TOKENS),
        limit_per_group=1,
        first_turns=True,
    )


def _identity(
    settings: Settings,
    questions: Sequence[Question],
    plans: Sequence[str],
    plan_file: PlanFile | None,
    draft: str,
) -> dict[str, Any]:
    """What the answers depend on."""
    asked = json.dumps([asdict(each) for each in questions])
    return {
        "config": config_hash(settings.config),
        "draft": draft,
        "max_new_tokens": settings.max_new_tokens,
        "limit_per_group": settings.limit_per_group,
        "first_turns": settings.first_turns,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "plans": list(plans),
        "plan_file": plan_file and plan_file.digest,
        "questions": hashlib.sha256(asked.encode()).hexdigest(),
    }


def card(settings: Settings, parts: Parts, num_questions: int) -> dict[str, str]:
    """Host and code, before any result."""
    turns = "first turns" if settings.first_turns else "all turns"
    draft = parts.draft_config
    return host_card(settings.config, settings.target_configs()) | {
        "draft": f"exits {parts.exits}, {draft.precision}",
        "scale": f"{num_questions} questions, {turns}, {settings.max_new_tokens} tokens at most, "
        f"T = {settings.temperature:g}, seed {settings.seed}",
    }
