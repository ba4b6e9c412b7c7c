"""Our own engine as a method: one target in this process under one plan, and its draft's link."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from s2d_ray.bench.alternate import Case, Method
from s2d_ray.bench.figures import Written
from s2d_ray.bench.texts import end_of, ids_of, write_together
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.draft_client import DraftClient, Send
from s2d_ray.engine.messages import GenerateRequest, Mode, TokenPrompt, Usage
from s2d_ray.engine.target_engine import TargetEngine

EXIT = "drafted_by_"

_numbers = itertools.count(1)

PlanOf = Callable[[tuple[int, ...]], Plan]
"""The plan of a text, by the ids of its prompt."""


class Ours:
    """A `Method`: writes by a target whose client is first connected to `send`, if to any.

    counters: of the draft behind `send`, for the steps of each exit.
    """

    def __init__(
        self,
        target: TargetEngine,
        client: DraftClient,
        plan: Plan,
        mode: Mode,
        send: Send | None = None,
        counters: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._target = target
        self._client = client
        self._plan = plan
        self._mode = mode
        self._send = send
        self._counters = counters

    def __call__(self, case: Case) -> Written:
        if self._send is None:
            self._client.disconnect()
        else:
            self._client.connect(self._send, next(_numbers))
        before = Counter(self._counters())
        requests = [self._request(case, index) for index in range(len(case.prompts))]
        groups = [requests] if case.concurrent else [[request] for request in requests]
        events = [told for group in groups for told in write_together(self._target, group)]
        usages = [end_of(told, case.name).usage for told in events]
        steps = Counter(self._counters())
        steps.subtract(before)
        return _written([ids_of(told) for told in events], usages, steps)

    def plan_of(self, prompt: tuple[int, ...]) -> Plan:
        """The plan of a text."""
        return self._plan

    def _request(self, case: Case, index: int) -> GenerateRequest:
        """With a salt of its own, so that no cache spares it what every method must compute."""
        name = f"{case.name}-{index}-{next(_numbers)}"
        return GenerateRequest(
            name,
            TokenPrompt(case.prompts[index]),
            case.sampling(index),
            self.plan_of(case.prompts[index]),
            self._mode,
            trace=True,
            cache_salt=name,
        )


class ByPrompt(Ours):
    """Each text as an `auto` request under a plan of its own; the draft is asked by `send`."""

    def __init__(
        self,
        target: TargetEngine,
        client: DraftClient,
        choose: PlanOf,
        send: Send,
        counters: Callable[[], Mapping[str, int]],
    ) -> None:
        super().__init__(target, client, Plan(), Mode.AUTO, send, counters)
        self._choose = choose

    def plan_of(self, prompt: tuple[int, ...]) -> Plan:
        """What is chosen for it."""
        return self._choose(prompt)


def _written(
    texts: Sequence[tuple[int, ...]], usages: Sequence[Usage], steps: Mapping[str, int]
) -> Written:
    levels: Counter[int] = Counter()
    accepted_by: Counter[int] = Counter()
    for usage in usages:
        accepted_by.update(usage.accepted_by_submodel)
        for count in usage.rounds_by_length:
            levels[count.drafted] += count.rounds
    return Written(
        tuple(texts),
        drafted=sum(usage.drafted_tokens for usage in usages),
        accepted=sum(usage.accepted_tokens for usage in usages),
        rounds=sum(usage.rounds for usage in usages),
        accepted_by=dict(accepted_by),
        levels=dict(levels),
        steps={int(k.removeprefix(EXIT)): n for k, n in steps.items() if n and k.startswith(EXIT)},
    )


def fixed_exit(plan: Plan, submodel: int, num_submodels: int) -> Plan:
    """The plan with thresholds under which every token leaves at one sub-model."""
    thresholds = (math.inf,) * submodel + (0.0,) * (num_submodels - 1 - submodel)
    return replace(plan, exit_thresholds=thresholds)


def side_by_side(methods: Sequence[Method]) -> Method:
    """One method of several that write the same case at the same time."""

    def write(case: Case) -> Written:
        with ThreadPoolExecutor(len(methods)) as pool:
            waiting: list[Future[Written]] = [pool.submit(each, case) for each in methods]
            found = [each.result() for each in waiting]
        return Written(
            tuple(text for each in found for text in each.texts),
            drafted=sum(each.drafted for each in found),
            accepted=sum(each.accepted for each in found),
        )

    return write
