"""What the benchmark of the engines measures with: targets, drafts and baselines, all loaded."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from s2d_ray.bench.alternate import Case
from s2d_ray.bench.costs import CostMeter
from s2d_ray.bench.exact_cases import PROMPTS
from s2d_ray.bench.exact_writer import draft_of
from s2d_ray.bench.ours import ByPrompt, Ours, PlanOf
from s2d_ray.bench.stock import Stock, load_stock, twin
from s2d_ray.config import AppConfig, DraftConfig, Precision, TargetConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.assemble import Target, make_draft, make_target
from s2d_ray.engine.draft_client import DraftClient
from s2d_ray.engine.draft_loop import DraftLoop
from s2d_ray.engine.messages import Mode
from s2d_ray.engine.turns import turns_for
from s2d_ray.errors import ConfigError
from s2d_ray.models import draft_files, sources
from s2d_ray.models.lineage import hash_of_weights
from s2d_ray.models.loading import choose_device, load_target_decoder, read_config
from s2d_ray.plan_file import PlanFile, TargetPlans

MAX_BATCH = 16
COST_CACHE_TOKENS = 4_096


@dataclass(frozen=True)
class Scale:
    """How much is measured. batch_tokens: per text where several are written at once."""

    num_prompts: int
    num_tokens: int
    batch_tokens: int
    num_runs: int
    repeats: int

    def __str__(self) -> str:
        return (
            f"{self.num_runs} runs, {self.num_prompts} prompts × {self.num_tokens} tokens alone, "
            f"{self.batch_tokens} tokens each at once"
        )


QUICK = Scale(num_prompts=2, num_tokens=24, batch_tokens=16, num_runs=3, repeats=5)
WHOLE = Scale(num_prompts=5, num_tokens=48, batch_tokens=32, num_runs=3, repeats=9)


@dataclass(frozen=True)
class Seat:
    """A loaded target and the client it asks its draft by."""

    target: Target
    client: DraftClient

    def ours(self, plan: Plan, mode: Mode, draft: DraftLoop | None = None) -> Ours:
        """The target as a method, with a draft in this process or none."""
        if draft is None:
            return Ours(self.target, self.client, plan, mode)
        return Ours(self.target, self.client, plan, mode, draft.submit, draft.counters)

    def by_prompt(self, choose: PlanOf, draft: DraftLoop) -> ByPrompt:
        """The target as a method that plans each text, with a draft in this process."""
        return ByPrompt(self.target, self.client, choose, draft.submit, draft.counters)


class Parts:
    """The first target of a config, its draft and the baselines, each loaded at its first use.

    stack: ends them.
    """

    def __init__(self, config: AppConfig, stack: ExitStack, say: Callable[[str], None]) -> None:
        self.config = config
        self.draft_config: DraftConfig = draft_of(config)
        self.target_config: TargetConfig = next(iter(config.targets.values()))
        self._stack = stack
        self._say = say

    @property
    def plan(self) -> Plan:
        """The config's plan."""
        return self.config.plan.plan()

    @cached_property
    def exits(self) -> tuple[int, ...]:
        """The draft's exit layers."""
        return draft_files.read_card(self.draft_folder).exit_layers

    @cached_property
    def first(self) -> Seat:
        """The target that is compared with the baselines."""
        return self._seat(self.target_config, "first")

    @cached_property
    def draft(self) -> DraftLoop:
        """The shared draft."""
        return self._draft()

    @cached_property
    def packed(self) -> Stock:
        """The baselines on the first target's own weights and linear layers."""
        self._say("preparing the baselines")
        return Stock(twin(self.first.target.model.decoder), self._assistant())

    def plans(self, file: PlanFile) -> TargetPlans:
        """What a plan file has for the first target.

        Raises ConfigError if it has nothing, or is of other weights.
        """
        [name, *_] = self.config.targets
        if name not in file.targets:
            raise ConfigError(f"plan file: has no target {name}; calibrate it")
        found = file.targets[name]
        for what, folder, wanted in (
            ("target", self._folder(self.target_config), found.weights),
            ("draft", self.draft_folder, file.draft.weights),
        ):
            if hash_of_weights(folder) != wanted:
                raise ConfigError(
                    f"plan file: made for other weights of the {what}; calibrate again"
                )
        return found

    def _assistant(self) -> Any:
        """The draft's base, in the draft's precision, if the draft has all layers of it.

        Else the target's own first layers, as many as the first exit has.
        """
        draft = self.draft_config
        if draft.base is not None:
            folder = sources.resolve(draft.base, report=self._say)
            whole = read_config(folder).num_hidden_layers == self.exits[-1]
            if whole and folder != self._folder(self.target_config):
                device = choose_device(draft.device)
                return twin(load_target_decoder(folder, draft.precision, device))
        return twin(self.first.target.model.decoder, self.exits[0])

    @cached_property
    def draft_folder(self) -> Path:
        """The draft's checkpoint, ready to be read."""
        return draft_files.ensure_draft(self.draft_config, report=self._say)

    def _folder(self, config: TargetConfig) -> Path:
        return sources.resolve(config.model, report=self._say)

    def _seat(self, config: TargetConfig, name: str) -> Seat:
        """Without a prefix cache: runs repeat their prompts, and every method must compute them."""
        self._say(f"loading the {name} target")
        config = config.model_copy(update={"max_batch": MAX_BATCH, "prefix_cache": False})
        deadlines = self.draft_config.deadline_ms / 1_000, self.draft_config.force_deadline_ms / 1e3
        client = DraftClient(*deadlines)
        turn = turns_for(config.device).turn
        target = make_target(config, self._folder(config), client, f"bench-{name}", turn=turn)
        target.loop.start()
        self._stack.callback(target.stop)
        return Seat(target, client)

    def _draft(self) -> DraftLoop:
        self._say("loading a draft")
        turn = turns_for(self.draft_config.device).turn
        draft = make_draft(self.draft_config, self.draft_folder, turn=turn)
        draft.start()
        self._stack.callback(draft.stop)
        return draft


class Rig(Parts):
    """Adds what the comparisons of the engines need: prompts, a second target, costs."""

    def __init__(
        self,
        config: AppConfig,
        scale: Scale,
        seed: int,
        stack: ExitStack,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(config, stack, say)
        self.scale = scale
        self.seed = seed

    @cached_property
    def second(self) -> Seat:
        """The config's second target; the first once more if there is no other."""
        return self._seat(list(self.config.targets.values())[:2][-1], "second")

    @cached_property
    def private_draft(self) -> DraftLoop:
        """The same draft once more, for the second target alone."""
        return self._draft()

    @cached_property
    def stock(self) -> Stock:
        """The baselines, on the first target's checkpoint."""
        self._say("loading the baselines")
        stock = load_stock(self._folder(self.target_config), self.exits[0])
        self._stack.callback(stock.close)
        return stock

    @cached_property
    def meter(self) -> CostMeter:
        """Costs of bare calls, by the first target's model and networks of its own."""
        device = choose_device(self.draft_config.device)
        beside: tuple[Precision, ...] = ("float32", "int8") if device.type == "cpu" else ()
        networks = {
            precision: draft_files.load_network(
                self.draft_folder, precision, device, COST_CACHE_TOKENS
            )
            for precision in (self.draft_config.precision, *beside)
        }
        return CostMeter(self.first.target.model, networks, self.stock.model, self.seed)

    @cached_property
    def prompts(self) -> tuple[tuple[int, ...], ...]:
        """Prompts as ids, in an order of the seed's."""
        texts = random.Random(self.seed).sample(PROMPTS, len(PROMPTS))
        encode = self.first.target.text.encode_chat
        return tuple(tuple(encode([{"role": "user", "content": text}])) for text in texts)

    def greedy(self) -> Case:
        """Texts one after another, at temperature 0."""
        prompts = self.prompts[: self.scale.num_prompts]
        return Case("greedy", prompts, self.scale.num_tokens, self.seed)

    def sampled(self) -> Case:
        """The same, drawn at temperature 0.7 with top_p 0.95."""
        prompts = self.prompts[: self.scale.num_prompts]
        return Case("sampled", prompts, self.scale.num_tokens, self.seed, 0.7, 0.95)

    def crowd(self, size: int) -> Case:
        """So many texts at once, at temperature 0."""
        prompts = self.prompts[:size]
        return Case(str(size), prompts, self.scale.batch_tokens, self.seed, concurrent=True)
