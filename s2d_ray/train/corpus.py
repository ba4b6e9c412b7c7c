"""`s2d corpus`: a target answers prompts, and its answers are kept with what it thought likely.

Every text is a pure function of settings and its place in the order, so a run that was killed goes
on behind its last shard and ends with the corpus of an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np

from s2d_ray.config import AppConfig, TargetConfig
from s2d_ray.core.hashing import choice_seed
from s2d_ray.core.params import SamplingParams
from s2d_ray.errors import ConfigError
from s2d_ray.models import sources
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.loading import read_config
from s2d_ray.models.text import Text
from s2d_ray.train import prompts
from s2d_ray.train.corpus_card import write_card
from s2d_ray.train.corpus_files import CARD, Answer, CorpusWriter, Settings, read_answers
from s2d_ray.train.prompts import Prompts
from s2d_ray.train.scoring import Given, load_judge, score_given
from s2d_ray.train.self_prompts import invent
from s2d_ray.train.writer import Task, Writer, Written, open_writer

TASKS_PER_SHARD = 64
GIVEN_TEMPERATURE = 1.0
"""Given answers count as drawn at this temperature."""


@dataclass(frozen=True)
class CorpusOptions:
    """What one corpus is made of; see `s2d corpus --help`."""

    target: str
    out: Path
    prompts: Path | None = None
    num_prompts: int | None = None
    tokens: int = 100_000
    temperatures: tuple[float, ...] = (0.0, 0.7)
    max_tokens: int = 96
    top: int = 12
    batch: int = 48
    held_out: float = 0.05
    seed: int = 1
    answers: str | None = None


Say = Callable[[str], None]
Advance = Callable[[int], None]


def make_corpus(config: AppConfig, options: CorpusOptions, say: Say, advance: Advance) -> Path:
    """Make the corpus, or what is missing of it. -> the path of its card.

    With `answers` of the prompts' file the target writes nothing, and only says what it thinks.

    say: takes lines for the user. advance: takes numbers of new output tokens.
    Raises S2DError for wrong options, prompts, models, or a folder with another corpus.
    """
    target = target_of(config, options.target)
    folder = sources.resolve(target.model, report=say)
    text = Text(folder)
    with ExitStack() as stack:

        @cache
        def writer() -> Writer:
            say(f"loading {options.target}")
            return stack.enter_context(open_writer(target, folder, options.batch))

        asked = _prompts(options, target, text, writer, say)
        order = prompts.shuffled(len(asked.ids), options.seed)[: options.num_prompts]
        ids = [asked.ids[place] for place in order]
        temperatures = (GIVEN_TEMPERATURE,) if options.answers else options.temperatures
        settings = Settings(
            target=options.target,
            model=target.model,
            precision=target.precision,
            weights=hash_of_weights(folder),
            tokenizer=text.fingerprint,
            vocab_size=read_config(folder).vocab_size,
            prompts=prompts.hash_of(ids),
            seed=options.seed,
            temperatures=temperatures,
            max_tokens=options.max_tokens,
            top=options.top,
            held_out=options.held_out,
            answers=options.answers,
        )
        corpus = CorpusWriter(options.out, settings)
        advance(corpus.num_tokens)
        first = len(corpus.shards) * TASKS_PER_SHARD
        unfinished = first < len(ids) * len(temperatures)
        if unfinished and corpus.num_tokens < options.tokens:
            if options.answers:
                given = _given(ids, [asked.answers[place] for place in order], text, options, first)
                say(f"loading {options.target}")
                model = load_judge(target, folder)
                _fill(corpus, score_given(model, given, options.top, advance), options)
            else:
                written = writer().write(_tasks(ids, options, first), advance)
                _fill(corpus, (_answer(each, options.held_out) for each in written), options)
    write_card(options.out, folder, asked)
    return options.out / CARD


def target_of(config: AppConfig, name: str) -> TargetConfig:
    """A target's section. Raises ConfigError naming those there are."""
    if name not in config.targets:
        raise ConfigError(f"--target: no target {name!r}; there are {', '.join(config.targets)}")
    return config.targets[name]


def _prompts(
    options: CorpusOptions,
    target: TargetConfig,
    text: Text,
    writer: Callable[[], Writer],
    say: Say,
) -> Prompts:
    path = options.prompts
    if path is None and options.answers:
        raise ConfigError("--answers: are read from the file of --prompts; name it")
    if path is None:
        number = options.num_prompts or 1_000
        path = invent(options.out, writer, text.encode_chat, number, options.seed)
    longest = target.max_context - options.max_tokens
    found = prompts.read_prompts(path, text.encode_chat, longest, options.answers)
    for line in found.bad:
        say(f"left out: {line}")
    return found


def _tasks(order: Sequence[prompts.Ids], options: CorpusOptions, first: int) -> Iterator[Task]:
    """Every prompt at every temperature; the first pass already has all temperatures in turn."""
    temperatures = options.temperatures
    for number in range(first, len(order) * len(temperatures)):
        turn, index = divmod(number, len(order))
        place = (index + turn) % len(temperatures)
        sampling = SamplingParams(
            choice_seed(options.seed, index, place),
            temperatures[place],
            max_tokens=options.max_tokens,
            logprobs=options.top,
        )
        yield Task(number, order[index], sampling)


def _given(
    order: Sequence[prompts.Ids],
    answers: Sequence[str],
    text: Text,
    options: CorpusOptions,
    first: int,
) -> Iterator[Given]:
    """Answers as the target would have ended them, cut at the longest."""
    for number in range(first, len(order)):
        prompt = order[number]
        written = text.tokenizer.encode(answers[number].strip(), add_special_tokens=False).ids
        ids = (*written, _end_of_turn(prompt, text.eos_token_ids))[: options.max_tokens]
        yield Given(number, prompt, ids, prompts.is_held_out(prompt, options.held_out))


def _end_of_turn(prompt: prompts.Ids, ends: frozenset[int]) -> int:
    """The end token that the chat template put behind the turn before."""
    return next((token for token in reversed(prompt) if token in ends), min(ends))


def _fill(corpus: CorpusWriter, texts: Iterator[Answer], options: CorpusOptions) -> None:
    seen = {_key(answer) for answer in read_answers(options.out, corpus.shards)}
    while shard := list(islice(texts, TASKS_PER_SHARD)):
        answers = []
        for answer in shard:
            if _key(answer) not in seen:
                seen.add(_key(answer))
                answers.append(answer)
        corpus.append(answers, dropped=len(shard) - len(answers))
        if corpus.num_tokens >= options.tokens:
            return


def _key(answer: Answer) -> bytes:
    return answer.output_ids.tobytes()


def _answer(written: Written, held_out: float) -> Answer:
    prompt_ids = written.task.prompt_ids
    return Answer(
        task=written.task.number,
        temperature=written.task.sampling.temperature,
        held_out=prompts.is_held_out(prompt_ids, held_out),
        prompt_ids=np.array(prompt_ids, np.int64),
        output_ids=np.array([trace.token_id for trace in written.traces], np.int64),
        top_ids=np.array(
            [[each.token_id for each in trace.alternatives] for trace in written.traces], np.int64
        ),
        top_logprobs=np.array(
            [[each.logprob for each in trace.alternatives] for trace in written.traces], np.float32
        ),
    )
