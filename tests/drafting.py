"""Draft engines driven as targets drive them: texts, their calls, and the replies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.draft_engine import DraftEngine
from s2d_ray.engine.protocol import (
    EMPTY_DIGEST,
    ProposeCall,
    ProposeReply,
    ProposeRow,
    RowReply,
    RowStatus,
    extend_digest,
)
from s2d_ray.models.attention import Segment
from s2d_ray.models.kv_pool import BLOCK, Copy, RunAllocator
from s2d_ray.models.linear import replace_linears
from s2d_ray.models.sorted_draft import DraftNetwork, cut_draft
from tests.tiny import EOS, VOCAB_SIZE, tiny_decoder

SHALLOW = Plan(exit_thresholds=(0.0, 0.0), max_proposal=4)
DEEP = Plan(exit_thresholds=(1.1, 1.1), max_proposal=4)
MIXED = Plan(exit_thresholds=(0.4, 0.4), max_proposal=4)
LONG_BUDGET_MS = 1e6


class Recorded:
    """A network that remembers which rows its groups and its heads were asked for."""

    def __init__(self, network: DraftNetwork) -> None:
        self._network = network
        self.exit_layers = network.exit_layers
        self.head_ids = network.head_ids
        self.pool = network.pool
        self.runs: list[tuple[int, list[int]]] = []
        self.heads: list[tuple[int, int]] = []
        self.copies: list[int] = []

    def run_group(
        self, group: int, token_ids: Sequence[int], segments: Sequence[Segment]
    ) -> Tensor:
        self.runs.append((group, [segment.num_rows for segment in segments]))
        return self._network.run_group(group, token_ids, segments)

    def exit_logits(self, submodel: int, hidden: Tensor) -> Tensor:
        self.heads.append((submodel, len(hidden)))
        return self._network.exit_logits(submodel, hidden)

    def copy(self, copy: Copy) -> None:
        self.copies.append(copy.num_tokens)
        self._network.copy(copy)


@dataclass
class Story:
    """A text as its target sees it: committed ids, and how many of them the draft should hold."""

    name: str
    ids: list[int]
    plan: Plan = MIXED
    seed: int = 1
    temperature: float = 1.0
    max_length: int = 64
    base: int = 0
    replica: str = "a"
    logit_bias: tuple[tuple[int, float], ...] = ()
    banned: tuple[int, ...] = ()
    salt: str = ""

    def row(self) -> ProposeRow:
        return ProposeRow(
            self.name,
            self.base,
            tuple(self.ids[self.base :]),
            extend_digest(EMPTY_DIGEST, self.ids),
            self.max_length,
            self.plan,
            self.seed,
            self.temperature,
            self.logit_bias,
            self.banned,
            self.salt,
        )


def story(name: str, length: int = 12, **fields: Any) -> Story:
    start = sum(name.encode())
    return Story(name, [(start + 7 * i * i) % VOCAB_SIZE for i in range(length)], **fields)


def run(engine: DraftEngine, now_s: float = 0.0) -> dict[str, ProposeReply]:
    """Step until every call is answered; -> the last reply to each replica."""
    replies = dict(engine.finished())
    while engine.has_work:
        engine.step(now_s)
        replies |= dict(engine.finished())
    return replies


class Targets:
    """Numbers calls and puts the rows of several stories into one call per replica."""

    def __init__(self, engine: DraftEngine) -> None:
        self.engine = engine
        self.call_no = 0

    def send(
        self,
        *stories: Story,
        budget_ms: float = LONG_BUDGET_MS,
        now_s: float = 0.0,
        closed: tuple[str, ...] = (),
    ) -> None:
        self.call_no += 1
        for name in sorted({one.replica for one in stories}):
            rows = tuple(one.row() for one in stories if one.replica == name)
            call = ProposeCall(name, self.call_no, budget_ms, rows, closed)
            self.engine.receive(call, now_s)

    def ask(self, *stories: Story, now_s: float = 0.0) -> list[RowReply]:
        """The replies to these rows, in their order."""
        self.send(*stories, now_s=now_s)
        replies = run(self.engine, now_s)
        rows = {
            (name, row.draft_session): row for name, reply in replies.items() for row in reply.rows
        }
        return [rows[one.replica, one.name] for one in stories]

    def settle(self, one: Story) -> RowReply:
        """Ask as a target does, round after round, until the row is drafted."""
        for _ in range(20):
            (reply,) = self.ask(one)
            if reply.status is RowStatus.OK:
                one.base = len(one.ids)
                return reply
            one.base = reply.needs_from if reply.status is RowStatus.NEEDS else len(one.ids)
        raise AssertionError("the row never joined")


# Drafts that keep bits --------------------------------------------------------------------------

EXITS = (1, 2, 3)
HEAD_IDS = tuple(range(0, VOCAB_SIZE, 2))
ENDS = frozenset({EOS})
NUM_TRUE = 9
"""Tokens that are imagined behind a text, to let guesses be right."""


@cache
def packed_network(family: str, cache_tokens: int, number: int) -> DraftNetwork:
    """A tiny sorted draft in float32 whose rows have the same bits in any company.

    Another number: the same weights with slots of its own.
    """
    draft = cut_draft(tiny_decoder(family, torch.float32, layers=3), HEAD_IDS, EXITS)
    draft = draft.eval().requires_grad_(False)
    replace_linears(draft, "packed")
    draft.split()
    return DraftNetwork(draft, cache_tokens)


def packed_engine(
    family: str, cache_tokens: int, number: int = 0, **settings: Any
) -> tuple[DraftEngine, Recorded]:
    """An engine that knows nothing yet, over slots that are full of others' keys."""
    network = packed_network(family, cache_tokens, number)
    network.pool.allocator = RunAllocator(network.pool.allocator.num_blocks * BLOCK)
    recorded = Recorded(network)
    return DraftEngine(recorded, ENDS, **{"max_debt": 10_000, **settings}), recorded


def alone(family: str, one: Story) -> RowReply:
    """What an engine answers that has seen no other row."""
    engine, _ = packed_engine(family, 320)
    return Targets(engine).settle(replace(one, base=0))


def random_plan(rng: random.Random) -> Plan:
    """Often deep, often shallow; chains and trees; some with a stop rule."""
    return Plan(
        rng.choice([(0.0, 0.0), (0.3, 0.4), (0.6, 1.1), (1.1, 0.0), (1.1, 1.1), (1.1, 1.1)]),
        rng.choice([0.0, 0.0, 0.0, 0.1, 0.4]),
        rng.choice([1, 2, 4, 4, 6]),
        rng.choice([1, 1, 2, 3]),
        rng.choice([1, 2, 32]),
    )


def change_manner(rng: random.Random, one: Story) -> None:
    """Another way to be guessed on."""
    one.plan = random_plan(rng)
    one.temperature = rng.choice([0.0, 0.7, 1.0])
    one.logit_bias = rng.choice([(), (), ((4, 2.0), (3, 9.0))])
    one.banned = rng.choice([(), (), tuple(ENDS)])


def random_text(rng: random.Random, name: str, **fields: Any) -> Story:
    """Texts begin alike in up to two blocks, and end on both sides of a block's border."""
    length = rng.choice([3, 30, 62, 63, 64, 65, 100, 128, 130, 150])
    shared = [(5 + 3 * i * i) % VOCAB_SIZE for i in range(140)]
    own = [rng.randrange(1, VOCAB_SIZE) for _ in range(length)]
    common = rng.choice([0, 64, 70, 128])
    ids = [*shared[: min(common, length - 1)], *own][:length]
    one = Story(name, ids, seed=rng.randrange(100), max_length=length + 40, **fields)
    change_manner(rng, one)
    return one


def grow(rng: random.Random, family: str, one: Story, reply: RowReply) -> int:
    """Commit what a target would whose text the deepest sub-model mostly knows: the right guesses
    and one token more; at times another token, the token of a plain round, or two rounds' tokens.

    -> accepted guesses.
    """
    spine = [token for token, rank in zip(reply.tokens, reply.ranks, strict=True) if rank == 0]
    knowing = Plan((1.1, 1.1), 0.0, NUM_TRUE)
    truth = alone(family, replace(one, plan=knowing, max_length=320 - BLOCK)).tokens
    num_right = 0
    while num_right < min(len(spine), len(truth) - 1) and spine[num_right] == truth[num_right]:
        num_right += 1
    surprise = rng.random()
    if surprise < 0.1:
        num_right = rng.randint(0, num_right)
        one.ids += [*truth[:num_right], rng.randrange(1, VOCAB_SIZE)]
    elif surprise < 0.15:
        num_right = 0
        one.ids.append(truth[0])
    else:
        one.ids += truth[: num_right + (2 if surprise < 0.25 else 1)]
    return num_right


def hear(one: Story, reply: RowReply) -> bool:
    """Learn what the draft holds now. -> whether it has guessed."""
    one.base = reply.needs_from if reply.status is RowStatus.NEEDS else len(one.ids)
    return reply.status is RowStatus.OK
