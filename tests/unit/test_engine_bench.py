"""The runners of `s2d bench engine` on tiny random models: right methods, right samples."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s2d_ray.bench import comparisons, engine, engine_report
from s2d_ray.bench.alternate import Advance, Case, alternate
from s2d_ray.bench.card import model_name
from s2d_ray.bench.comparisons import Singles
from s2d_ray.bench.engine_report import Measured
from s2d_ray.bench.figures import Sample, Written
from s2d_ray.bench.ours import fixed_exit
from s2d_ray.bench.rig import Rig, Scale
from s2d_ray.config import AppConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.errors import ModelError
from s2d_ray.models.stopwatch import time_in_turn
from tests.tiny import tiny_checkpoint, whole_draft

TINY = Scale(num_prompts=2, num_tokens=8, batch_tokens=3, num_runs=2, repeats=1)
EXITS = (2, 6)
KEYS = {
    "plain_vs_generate",
    "plain_vs_continuous_batching",
    "speculation",
    "speculation_sampled",
    "identical",
    "actor_vs_in_process",
    "share_of_ideal",
    "forward_rows",
    "draft_rows_8_vs_1",
    "shared_vs_private",
}


class Bar:
    """Counts what it was promised and what came."""

    def __init__(self) -> None:
        self.promised = 0
        self.taken: list[str] = []

    def open(self, title: str, total: int) -> Advance:
        self.promised += total
        return self.taken.append


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AppConfig:
    """A tiny target, and a draft whose deepest sub-model is the whole of it."""
    folder = tmp_path_factory.mktemp("bench")
    model = tiny_checkpoint(folder / "target")
    whole_draft(folder / "draft", model, EXITS)
    return AppConfig.model_validate(
        {
            "targets": {"tiny": {"model": str(model), "num_threads": 1}},
            "draft": {"checkpoint": str(folder / "draft"), "num_threads": 1},
            "plan": {"exit_thresholds": [0.9], "max_proposal": 3},
        }
    )


@pytest.fixture(scope="module")
def rig(config: AppConfig) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(config, TINY, 1, stack, lambda line: None)


@pytest.fixture(scope="module")
def measured(rig: Rig) -> Measured:
    bar = Bar()
    found = Measured(
        singles=comparisons.write_singly(rig, bar),
        crowds=comparisons.write_in_crowds(rig, bar),
        pair=comparisons.write_for_two(rig, bar),
        actor=as_actor(rig),
        curves=rig.meter.curves(1),
        ours=list(comparisons.our_methods(rig)),
        plan=rig.plan,
        prompts=rig.greedy().prompts,
    )
    assert len(bar.taken) == bar.promised
    return found


def as_actor(rig: Rig, *_: object) -> list[Sample]:
    """The comparison with the actor, with no Ray: both drafts are the same one."""
    methods = comparisons.our_methods(rig)
    both = {"in_process": methods["force"], "actor": methods["force"]}
    return alternate(both, [rig.greedy()], TINY.num_runs, lambda what: None)


def test_every_figure_is_there(measured: Measured) -> None:
    """With one case per concurrency, and one method per exit, tier 0 and baseline."""
    values = engine_report.result(measured)
    assert values.keys() >= KEYS
    assert values["plain_vs_continuous_batching"].keys() == {"1", "4", "8", "16"}
    methods = {"auto", "force", "exit_2", "exit_6", "tier0", "prompt_lookup", "assisted"}
    assert values["speculation"].keys() == values["speculation_sampled"].keys() == methods
    assert values["forward_rows"].keys() == {"1", "4", "8"}
    assert values["share_of_ideal"] == min(values["shares_of_ideal"].values())
    low, high = values["spread"]["plain_vs_generate"]
    assert low <= values["plain_vs_generate"] <= high
    for name, found in values["spread"]["speculation"].items():
        assert found[0] <= values["speculation"][name] <= found[1]
    json.dumps(values)


def test_all_of_ours_write_the_same_ids_and_all_methods_equally_many(measured: Measured) -> None:
    assert engine_report.result(measured)["identical"]
    for each in measured.singles.samples:
        assert [len(text) for text in each.written.texts] == [TINY.num_tokens] * TINY.num_prompts
    for each in measured.crowds:
        assert [len(text) for text in each.written.texts] == [TINY.batch_tokens] * int(each.case)


def test_the_baselines_write_greedily_what_we_write(measured: Measured) -> None:
    """So speeds are compared on the same work."""
    greedy = [each for each in measured.singles.samples if each.case == "greedy"]
    assert len({each.written.texts for each in greedy}) == 1


def test_each_fixed_exit_drafts_at_its_depth_alone(measured: Measured) -> None:
    """And the deepest one, the target itself, is always right; plain drafts nothing."""
    for each in measured.singles.samples:
        drafters = {
            "plain": set(),
            "exit_2": {2},
            "exit_6": {6},
            "tier0": set(),
            "force": set(each.written.steps),
        }
        assert set(each.written.steps) == drafters.get(each.method, set(each.written.steps))
        if each.method == "exit_6":
            assert each.written.accepted == each.written.drafted > 0


def test_every_shape_is_measured_and_the_draft_in_both_precisions(measured: Measured) -> None:
    """The keys of the curves, which whoever plans by them reads."""
    curves = engine_report.curve_values(measured.curves)["curves_ms"]
    forwards = {f"1 × {rows}" for rows in (1, 2, 4, 6, 8, 12, 16)}
    forwards |= {"2 × 1", "4 × 1", "8 × 1", "2 × 4", "4 × 4", "8 × 4"}
    assert curves["forward"].keys() == forwards
    assert curves["tree"].keys() == {"spine 2, 2 leaves", "spine 4, 4 leaves"}
    steps = {f"{layer} layers, {rows} × 1" for layer in EXITS for rows in (1, 2, 4, 8)}
    assert curves["draft"].keys() == {"float32", "int8"}
    assert all(by.keys() == steps for by in curves["draft"].values())
    assert measured.curves.costs.model.draft_s == measured.curves.drafts_s["float32"]
    assert curves["stock"] > 0


def test_measuring_gives_all_room_back_and_asks_for_room_by_its_key(rig: Rig) -> None:
    """Else the next comparison would have less cache than the config says."""
    allocator = rig.first.target.model.pool.allocator
    before = allocator.num_free_blocks
    rig.meter.around(30, 3, 1)
    assert allocator.num_free_blocks == before
    with pytest.raises(ModelError, match="^kv_cache_mib: measuring costs needs room"):
        rig.meter.around(10_000, 3, 1)
    assert allocator.num_free_blocks == before


def test_calls_are_timed_in_an_order_of_each_round() -> None:
    """After one untimed round; every call once a round."""
    made: list[str] = []
    calls = {name: functools.partial(made.append, name) for name in "abcd"}
    assert time_in_turn(calls, 6, random.Random(1)).keys() == calls.keys()
    rounds = ["".join(made[start : start + 4]) for start in range(0, len(made), 4)]
    assert len(rounds) == 7
    assert {"".join(sorted(each)) for each in rounds} == {"abcd"}
    assert len(set(rounds)) > 3


def test_a_liar_makes_the_result_not_identical(measured: Measured) -> None:
    """Wherever it lies: alone, in a crowd, beside another target, or from another process."""

    def lying(samples: Any, method: str) -> list[Sample]:
        wrong = Written(((9,),))
        return [replace(s, written=wrong) if s.method == method and s.run else s for s in samples]

    singles = measured.singles
    for method in measured.ours:
        told = Singles(lying(singles.samples, method), singles.costs)
        assert engine_report.differing(replace(measured, singles=told)) != []
    for part, method in (("crowds", "plain"), ("pair", "shared"), ("actor", "actor")):
        told_part = lying(getattr(measured, part), method)
        assert engine_report.differing(replace(measured, **{part: told_part})) != []


def test_methods_take_turns_and_each_run_begins_with_another() -> None:
    order: list[str] = []

    def method(name: str) -> Any:
        return lambda case: order.append(f"{name}{case.num_tokens}") or Written(((1,),))

    cases = [Case("greedy", ((1,),), 7)]
    begun: list[tuple[int, str]] = []
    methods = {name: method(name) for name in "ab"}
    alternate(
        methods, cases, 3, lambda what: None, lambda run, case, name: begun.append((run, name))
    )
    assert order == ["a4", "b4", "a7", "b7", "b7", "a7", "a7", "b7"]
    assert begun == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]


def test_a_fixed_exit_is_reached_whatever_the_confidence() -> None:
    for depth in range(3):
        plan = fixed_exit(Plan(), depth, 3)
        for confidence in (0.0, 0.5, 1.0):
            climbs = [plan.goes_deeper(submodel, confidence, 3) for submodel in range(3)]
            assert climbs == [submodel < depth for submodel in range(3)]


def test_the_last_line_is_the_result_and_is_saved(
    config: AppConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The card comes first; the progress is on stderr."""
    monkeypatch.setattr(engine, "QUICK", TINY)
    monkeypatch.setattr(comparisons, "write_by_actor", lambda rig, bar, temp_dir: as_actor(rig))
    settings = engine.Settings(config, True, False, tmp_path / "deep" / "results", 1, tmp_path)
    assert engine.run(settings) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cpu ")
    values = json.loads(lines[-1])
    assert values.keys() >= KEYS
    assert "ceiling" in values["card"]
    [path] = (tmp_path / "deep" / "results").iterdir()
    assert json.loads(path.read_text()) == values


def test_a_card_names_no_place_on_this_machine() -> None:
    """It is published with the result."""
    assert model_name("/home/me/models/small.gguf") == "small.gguf"
    assert model_name("models/small") == "small"
    assert model_name(f"pypi:small==1.0#sha256={'0' * 64}") == "pypi:small==1.0"
    assert model_name("hub:org/small@main") == "hub:org/small@main"


def test_the_curves_alone_need_no_text(
    config: AppConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Card, two tables, and the line with the figures of forwards alone."""
    monkeypatch.setattr(engine, "QUICK", TINY)
    monkeypatch.setattr(engine, "measure", None)
    assert engine.run(engine.Settings(config, True, True, tmp_path, 1, tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cpu ")
    values = json.loads(lines[-1])
    assert values.keys() >= {"forward_rows", "draft_rows_8_vs_1", "curves_ms", "card"}
    assert "identical" not in values
