"""The writing side of the exactness run: engines in this process, and texts out of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from s2d_ray.bench.exact_cases import NUM_TOKENS, PROMPTS, Outcome, Run
from s2d_ray.bench.texts import end_of, ids_of, write_together
from s2d_ray.config import AppConfig, DraftConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.assemble import Target, make_draft, make_target
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.messages import ChatPrompt, Delta, Event, GenerateRequest
from s2d_ray.errors import ConfigError
from s2d_ray.models import draft_files, sources


class Writer:
    """One loaded target, writing texts for runs."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._num_sent = 0
        target.loop.start()

    def write(self, runs: Sequence[Run]) -> list[Outcome]:
        """Run all of `runs` at once. Raises RunError if the target refuses one."""
        started_s = time.monotonic()
        events = write_together(self._target, [self._request(run) for run in runs])
        share_s = (time.monotonic() - started_s) / len(runs)
        return [_outcome(run, told, share_s) for run, told in zip(runs, events, strict=True)]

    def _request(self, run: Run) -> GenerateRequest:
        self._num_sent += 1
        sampling = SamplingParams(
            run.seed(self._seed), temperature=run.temperature, max_tokens=NUM_TOKENS
        )
        prompt = ChatPrompt(({"role": "user", "content": PROMPTS[run.prompt]},))
        name = f"{run.key}#{self._num_sent}"
        return GenerateRequest(name, prompt, sampling, run.plan or Plan(), run.mode, trace=True)


def _outcome(run: Run, events: Sequence[Event], seconds: float) -> Outcome:
    last = end_of(events, run.key)
    return Outcome(
        run.key,
        ids_of(events),
        "".join(event.text for event in events if isinstance(event, Delta)),
        str(last.reason),
        last.usage.rounds,
        last.usage.drafted_tokens,
        last.usage.accepted_tokens,
        last.usage.draft_misses,
        seconds,
    )


def make_writers(config: AppConfig, seed: int) -> tuple[dict[str, Writer], dict[str, bool]]:
    """Load the draft and all targets. -> writers and whether each claims bitwise exactness."""
    draft_config = draft_of(config)
    draft = make_draft(draft_config, draft_files.ensure_draft(draft_config, report=say))
    draft.start()
    writers, exact = {}, {}
    for number, (name, target_config) in enumerate(config.targets.items()):
        say(f"loading {name}")
        force_s = draft_config.force_deadline_ms / 1_000
        client = DraftClient(draft_config.deadline_ms / 1_000, force_s)
        client.connect(draft.submit, epoch=1)
        folder = sources.resolve(target_config.model, report=say)
        target = make_target(target_config, folder, client, replica=f"exact-{number}")
        exact[name] = target.bitwise_exact
        writers[name] = Writer(target, seed)
    return writers, exact


def draft_of(config: AppConfig) -> DraftConfig:
    """The draft's section. Raises ConfigError if there is none."""
    if config.draft is None:
        raise ConfigError("draft: this run needs one; name draft.base or draft.checkpoint")
    return config.draft


def say(line: str) -> None:
    """Tell of progress on stderr: stdout holds the report."""
    print(line, file=sys.stderr, flush=True)
