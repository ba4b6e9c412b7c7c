"""Methods in turn on the same cases: what one run compares was measured side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from s2d_ray.bench.figures import Sample, Written
from s2d_ray.core.params import SamplingParams


@dataclass(frozen=True)
class Case:
    """Prompts to continue by `num_tokens` ids each.

    concurrent: all at once instead of one after another.
    end_ids: the target's end tokens, if they may end a text sooner.
    """

    name: str
    prompts: tuple[tuple[int, ...], ...]
    num_tokens: int
    seed: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    concurrent: bool = False
    end_ids: tuple[int, ...] = ()

    def sampling(self, index: int) -> SamplingParams:
        """How the text behind prompt `index` is drawn, the same for every method of ours."""
        return SamplingParams(
            seed=1_000 * self.seed + index,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.num_tokens,
            ignore_eos=not self.end_ids,
        )


Method = Callable[[Case], Written]
Advance = Callable[[str], None]
"""Told of each sample once it is taken, for the progress bar."""

Before = Callable[[int, Case, str], None]
"""Called with run, case and method ahead of each sample, untimed."""


def nothing(run: int, case: Case, method: str) -> None:
    """The `Before` that has nothing to do."""


WARM_TOKENS = 4


def num_samples(methods: Mapping[str, Method], cases: Sequence[Case], num_runs: int) -> int:
    """How often `alternate` will call `Advance`."""
    return len(methods) * len(cases) * num_runs


def warm_up(methods: Mapping[str, Method], case: Case) -> None:
    """Let all methods write a few tokens of a case, untimed."""
    for method in methods.values():
        method(replace(case, num_tokens=WARM_TOKENS))


def in_turn(methods: Iterable[str], run: int) -> list[str]:
    """All names, each run beginning with another."""
    names = list(methods)
    first = run % len(names)
    return names[first:] + names[:first]


def alternate(
    methods: Mapping[str, Method],
    cases: Sequence[Case],
    num_runs: int,
    advance: Advance,
    before: Before = nothing,
) -> list[Sample]:
    """Every method on every case, `num_runs` times, each run beginning with another method.

    All methods first write a few tokens of the last case, untimed.
    """
    samples = []
    warm_up(methods, cases[-1])
    for run in range(num_runs):
        for case in cases:
            for name in in_turn(methods, run):
                before(run, case, name)
                started_s = time.perf_counter()
                written = methods[name](case)
                seconds = time.perf_counter() - started_s
                samples.append(Sample(case.name, name, run, seconds, written))
                advance(f"{case.name} {name}")
    return samples
