"""Draft sessions, bit for bit (design D3, D6, D7): a proposal is a function of its row alone.

The drafts are tiny random ones in float32 with packed linear layers. Whatever is batched, left
early, caught up late, evicted, copied or guessed ahead, a row gets the tokens, exits, ranks and
confidences that an engine gives which has never seen anything else.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from s2d_ray.engine.protocol import ProposeReply, RowReply, RowStatus
from s2d_ray.models.kv_pool import BLOCK
from tests.drafting import (
    Story,
    Targets,
    alone,
    change_manner,
    grow,
    hear,
    packed_engine,
    random_text,
)

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this host has no oneDNN"
)

FAMILIES = ("llama", "gemma3_text")


# A mix ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_leave_at_their_own_depth_are_guessed_as_each_alone(family: str) -> None:
    """Any mix of depths, lengths, widths and temperatures in one batch, compacted layer group by
    layer group: every row has the bits it has alone."""
    rng = random.Random(3)
    num_mixed = 0
    for number in range(12):
        engine, network = packed_engine(family, 2_048, prefill_chunk=256)
        mix = [random_text(rng, f"{number}-{n}", replica="ab"[n % 2]) for n in range(7)]
        mix = [one for one in mix if one.plan.max_proposal > 0]
        replies = Targets(engine).ask(*mix)
        sizes = [[len(r) for g, r in network.runs if g == group] for group in range(3)]
        num_mixed += any(0 < size < max(sizes[0]) for size in sizes[2])
        for one, reply in zip(mix, replies, strict=True):
            assert reply == alone(family, one)
    assert num_mixed > 6


# Any traffic ------------------------------------------------------------------------------------


class Traffic:
    """Two targets' rounds over some texts, with calls that arrive between any two steps."""

    def __init__(self, family: str, seed: int, *, run_ahead: bool) -> None:
        self.family = family
        self.rng = random.Random(seed)
        self.engine, _ = packed_engine(
            family, 640, prefill_chunk=32, run_ahead=run_ahead, idle_s=1e9
        )
        self.targets = Targets(self.engine)
        self.texts = [self.text(n) for n in range(6)]
        self.out: dict[str, tuple[int, list[Story]]] = {}
        self.num_new = 0
        self.num_given_up = 0
        self.statuses: Counter[RowStatus] = Counter()
        self.accepted: Counter[int] = Counter()

    def text(self, number: int) -> Story:
        return random_text(self.rng, f"s{number}", replica="ab"[number % 2])

    def turn(self) -> None:
        """One target asks, perhaps having given its last call up, or the draft steps."""
        name = self.rng.choice("ab")
        if self.rng.random() < (0.06 if name in self.out else 0.3):
            self.num_given_up += name in self.out
            self.ask(name)
        else:
            self.engine.step(0.0)
        for name, reply in self.engine.finished():
            self.take(name, reply)

    def ask(self, name: str) -> None:
        closed: tuple[str, ...] = ()
        for place, one in enumerate(self.texts):
            if one.replica == name and len(one.ids) > one.max_length - 8:
                closed = (one.name,)
                self.num_new += 1
                self.texts[place] = self.text(2 * (10 + self.num_new) + (name == "b"))
        mine = [one for one in self.texts if one.replica == name]
        asking = self.rng.sample(mine, self.rng.randint(1, 3))
        for one in asking:
            if self.rng.random() < 0.15:
                change_manner(self.rng, one)
        self.targets.send(*asking, closed=closed)
        self.out[name] = self.targets.call_no, asking

    def take(self, name: str, reply: ProposeReply) -> None:
        call_no, asking = self.out[name]
        if reply.call_no < call_no:
            return
        del self.out[name]
        asked = {one.name: one for one in asking}
        for row in reply.rows:
            one = asked[row.draft_session]
            self.statuses[row.status] += 1
            if hear(one, row):
                self.check(one, row)

    def check(self, one: Story, row: RowReply) -> None:
        assert row == alone(self.family, one)
        self.accepted[grow(self.rng, self.family, one, row)] += 1


@pytest.mark.parametrize(
    ("family", "run_ahead"), [("llama", False), ("llama", True), ("gemma3_text", True)]
)
def test_interleaved_sessions_are_guessed_as_each_alone(family: str, run_ahead: bool) -> None:
    """Six texts of two targets that begin alike, a cache for three or four, calls that arrive
    between any two steps or are given up, changing plans, temperatures and hints, rejections at any
    depth, lazy groups that catch up; with run-ahead also in every idle step. Counted, so that
    nothing passes by not happening."""
    traffic = Traffic(family, 11, run_ahead=run_ahead)
    for _ in range(600):
        traffic.turn()
    counters = traffic.engine.counters
    assert traffic.num_given_up > 2
    assert traffic.statuses[RowStatus.OK] > 60
    assert traffic.statuses[RowStatus.NEEDS] > 3
    assert traffic.statuses[RowStatus.WARMING] > 3
    assert counters["evicted_sessions"] > 3
    assert counters["prefix_tokens"] > 3 * BLOCK
    assert counters["caught_up_positions"] > 20
    assert counters["steps_of_several_replicas"] > 5
    assert sum(n for count, n in traffic.accepted.items() if count > 0) > 20
    assert (counters["run_ahead_hits"] > 5) == run_ahead
    assert (counters["run_ahead_wasted"] > 5) == run_ahead
