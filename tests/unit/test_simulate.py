"""`s2d simulate`: traces, costs, the shared draft, and the command as users meet it."""

from __future__ import annotations

import json
import statistics
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from s2d_ray.cli import app
from s2d_ray.config import parse_config
from s2d_ray.errors import ConfigError
from s2d_ray.policy.scaling import ScaleBy
from s2d_ray.simulate import setup
from s2d_ray.simulate.costs import default_costs, load_costs, parse_costs
from s2d_ray.simulate.draft import SharedDraft
from s2d_ray.simulate.figures import percentile
from s2d_ray.simulate.replica import Engine
from s2d_ray.simulate.request import Arrival
from s2d_ray.simulate.service import Service, Simulation, Target
from s2d_ray.simulate.traces import DAY_S, Caps, Kind, Mix, draw_trace, read_trace
from s2d_ray.simulate.usage import usage_records
from tests.simulating import MANY, MEASURED, MIX, NO_LIMITS, arrival

STEP_S = partial(MEASURED.draft, MEASURED.layers[0])

CONFIG = """
version: 1
targets:
  small:
    model: /nowhere
    autoscaling: {min_replicas: 0, max_replicas: 4, target_ongoing_requests: 6}
  big: {model: /nowhere, num_replicas: 2}
"""


def drawn(kind: Kind, seed: int = 1, per_s: float = 5.0) -> list[Arrival]:
    return list(draw_trace(kind, MIX, duration_s=2_000, per_s=per_s, seed=seed))


@pytest.mark.parametrize("kind", list(Kind))
def test_a_drawn_trace_has_its_rate_its_order_and_its_caps(kind: Kind) -> None:
    trace = drawn(kind)
    assert len(trace) / 2_000 == pytest.approx(5.0, rel=0.25)
    assert all(a.at_s <= b.at_s for a, b in pairwise(trace))
    assert all(1 <= each.output_tokens <= each.max_tokens <= 256 for each in trace)
    assert all(each.prompt_tokens + each.max_tokens <= 2_048 for each in trace)
    assert trace == drawn(kind)
    assert trace != drawn(kind, seed=2)
    shares = [sum(each.tenant == name for each in trace) for name in MIX.tenants]
    assert shares == sorted(shares, reverse=True)


def test_traces_differ_in_what_they_are_named_for() -> None:
    """Counts of 10 s spread like Poisson's only in a steady trace; long lengths have tails."""

    def dispersion(kind: Kind) -> float:
        counts = [0] * 200
        for each in drawn(kind):
            counts[int(each.at_s / 10)] += 1
        return statistics.variance(counts) / statistics.mean(counts)

    assert dispersion(Kind.STEADY) == pytest.approx(1.0, abs=0.35)
    assert min(dispersion(kind) for kind in Kind if kind is not Kind.STEADY) > 2.5
    prompts = {kind: sorted(a.prompt_tokens for a in drawn(kind)) for kind in Kind}
    ratios = {
        kind: (percentile(lengths, 99) or 0) / statistics.median(lengths)
        for kind, lengths in prompts.items()
    }
    assert ratios[Kind.HEAVY_TAILED] > 2 * ratios[Kind.STEADY]
    day = [each.at_s for each in drawn(Kind.DIURNAL)]
    assert sum(500 <= at_s < 1_500 for at_s in day) > 2 * (len(day) / 3)


def test_a_trace_file_is_read_in_any_order_with_its_defaults(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(
        '{"at_s": 2, "prompt_tokens": 9, "output_tokens": 300, "tenant": "b"}\n\n'
        '{"at_s": 1, "prompt_tokens": 5, "output_tokens": 6, "max_tokens": 8, "target": "t"}\n'
    )
    assert read_trace(file, MIX) == [
        Arrival(1.0, "a", "t", 5, 6, 8),
        Arrival(2.0, "b", "t", 9, 300, 300),
    ]


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("{", "trace, line 1: not JSON"),
        ('{"at_s": 1, "prompt_tokens": 5}', "trace, line 1: output_tokens: Field required"),
        ('{"at_s": -1, "prompt_tokens": 5, "output_tokens": 1}', "line 1: at_s:"),
        ('{"at_s": 1, "prompt_tokens": 5, "output_tokens": 1, "x": 1}', "x: unknown key"),
        ('{"at_s": 1, "prompt_tokens": 5, "output_tokens": 1, "target": "u"}', "'u' is not in"),
        ('{"at_s": 1, "prompt_tokens": 5, "output_tokens": 1, "tenant": "z"}', "there is no 'z'"),
        ('{"at_s": 1, "prompt_tokens": 2040, "output_tokens": 10}', "context of 2048"),
        ('{"at_s": 1, "prompt_tokens": 9000, "output_tokens": 1}', "context of 2048"),
        ("", "no request in it"),
    ],
)
def test_a_wrong_trace_is_named_by_its_line_and_field(
    tmp_path: Path, line: str, trouble: str
) -> None:
    file = tmp_path / "trace"
    file.write_text(line)
    with pytest.raises(ConfigError, match=trouble):
        read_trace(file, MIX)


def test_costs_are_the_measured_ones_at_measured_sizes() -> None:
    """And lie between, or on the line beyond; the packaged file says whose they are."""
    curves = json.loads(default_costs().read_text())["curves_ms"]
    costs = load_costs(default_costs())
    assert costs.forward(4, 1) == pytest.approx(curves["forward"]["4 × 1"] / 1e3)
    assert costs.forward(8, 4) == pytest.approx(curves["forward"]["8 × 4"] / 1e3)
    assert costs.forward(4, 1) < costs.forward(6, 1) < costs.forward(8, 1) < costs.forward(20, 1)
    assert costs.prefill(64) == pytest.approx(curves["prefill"]["64"] / 1e3)
    assert costs.draft(4, 2) == pytest.approx(curves["draft"]["float32"]["4 layers, 2 × 1"] / 1e3)
    assert costs.origin.commit == "b122691fc0d0"
    assert "smollm2" in costs.origin.host.lower()


def test_costs_of_a_calibration_are_read_as_well(tmp_path: Path) -> None:
    file = tmp_path / "costs-small.json"
    file.write_text(json.dumps(MEASURED.to_json()))
    found = load_costs(file)
    assert found.forward(3, 2) == pytest.approx(MEASURED.forward(3, 2))
    assert found.origin == MEASURED.origin


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("no", "not JSON"),
        ("[]", "no result of"),
        ('{"card": {}}', "curves_ms"),
        ('{"card": {"target": 1, "cpu": 1, "commit": 1}, "curves_ms": {"forward": {}}}', "result"),
    ],
)
def test_a_file_of_no_costs_is_refused_in_one_line(tmp_path: Path, text: str, trouble: str) -> None:
    file = tmp_path / "costs.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=trouble) as caught:
        load_costs(file)
    assert "\n" not in caught.value.message


def test_costs_with_a_zero_or_without_a_single_row_are_refused() -> None:
    tree = json.loads(default_costs().read_text())
    tree["curves_ms"]["prefill"] = {"32": 0}
    with pytest.raises(ValueError, match="positive"):
        parse_costs(tree)
    tree["curves_ms"]["forward"] = {"1 × 4": 30}
    with pytest.raises(KeyError):
        parse_costs(tree)


def test_a_draft_alone_takes_its_steps_and_saturates_under_many() -> None:
    """Guesses of all replicas together never exceed what its steps can give."""
    draft = SharedDraft(4, STEP_S, acceptance=0.8)
    assert draft.tokens_per_round == pytest.approx(1 + 0.8 + 0.8**2 + 0.8**3 + 0.8**4)
    assert draft.round_s("one", 4, 0.04) == pytest.approx(4 * STEP_S(4), rel=2e-3)
    seconds = []
    for number in range(200):
        seconds.append(draft.round_s(number, 8, 0.04))
        draft.join(number, 8, 0.04)
    assert seconds == sorted(seconds)
    assert draft.rows == 1_600
    guesses_per_s = draft.rows * 4 / (seconds[-1] + 0.04)
    most = 1_600 / STEP_S(1_600)
    assert 0.5 * most < guesses_per_s < 1.01 * most
    for number in range(200):
        draft.leave(number)
    assert draft.rows == 0


def run_with_draft(num_replicas: int, acceptance: float, until_s: float = 60.0) -> Simulation:
    """Every replica has full batches all the time."""
    service = Service(
        {"t": Target(Engine(MEASURED, 8, 256), num_replicas)},
        dict.fromkeys(MIX.tenants, NO_LIMITS),
        MANY,
        1e9,
        draft=lambda: SharedDraft(4, STEP_S, acceptance),
    )
    trace = [arrival(0.0, 100) for _ in range(8 * num_replicas)]
    run = Simulation(service, iter(trace), 1)
    run.run(until_s)
    return run


def speculated(run: Simulation) -> float:
    replicas = run.pools["t"].replicas
    return sum(each.num_speculated for each in replicas) / sum(each.num_steps for each in replicas)


def test_speculation_is_used_while_it_pays_and_by_as_many_as_it_pays_for() -> None:
    """Good guesses shorten a token; bad ones are not asked for; a full draft is left alone."""
    plain, good, bad, crowd = (
        run_with_draft(2, 0.0),
        run_with_draft(2, 0.9),
        run_with_draft(2, 0.05),
        run_with_draft(60, 0.9),
    )
    mean = {
        name: statistics.mean(each.tpot_s or 0.0 for each in run.requests)
        for name, run in {"plain": plain, "good": good, "crowd": crowd}.items()
    }
    assert speculated(good) > 0.8
    assert speculated(plain) == speculated(bad) == 0
    assert 0 < speculated(crowd) < 0.6 * speculated(good)
    assert mean["good"] < 0.8 * mean["plain"]
    assert mean["good"] < mean["crowd"]


def test_so_many_replicas_speculate_as_the_formula_of_the_docs_says() -> None:
    """docs/scaling.md: a draft carries N = n · E · P / W replicas; here with chains of 4."""
    acceptance = 0.8
    run = run_with_draft(100, acceptance, until_s=0.0)
    assert run.draft is not None
    committed = run.draft.tokens_per_round
    plain_s, forward_s = MEASURED.forward(8, 1), MEASURED.forward(8, 5)
    most_s = committed * plain_s - forward_s
    rows = max(n for n in range(1, 10_000) if 4 * STEP_S(n) <= most_s)
    carried = rows / 8 * committed * plain_s / most_s
    seen: list[int] = []
    run.clock.every(0.1, lambda: seen.append(run.draft.rows if run.draft else 0))
    run.run(6.0)
    assert 5 < carried < 50
    assert max(seen) / 8 == pytest.approx(carried, rel=0.1)


def test_the_config_says_how_a_target_is_simulated() -> None:
    config = parse_config(CONFIG, "here")
    tenants = setup.tenants_of(config, None)
    costs = setup.costs_of(config, [])
    assert list(tenants) == ["tenant-1", "tenant-2", "tenant-3", "tenant-4"]
    service = setup.service_of(config, tenants, costs, start_s=5.0, acceptance=0.5)
    assert service.draft is None
    assert service.bounds.max_open == config.http.max_admitted
    small, big = service.targets["small"], service.targets["big"]
    assert (small.num_replicas, big.num_replicas) == (0, 2)
    assert big.scaling is None
    assert small.scaling is not None
    assert small.scaling.rule.by is ScaleBy.REQUESTS
    assert small.scaling.rule.per_replica == 6
    by_tokens = setup.service_of(
        config, tenants, costs, start_s=5.0, acceptance=0.5, by=ScaleBy.TOKENS
    ).targets["small"]
    assert by_tokens.scaling is not None
    assert by_tokens.scaling.rule.per_replica == 8 * 512
    with pytest.raises(ConfigError, match="no target 'none'"):
        setup.costs_of(config, ["none=file.json"])
    packaged = str(default_costs())
    assert set(setup.costs_of(config, [packaged, f"big={packaged}"])) == {"small", "big"}
    mix = setup.mix_of(config, tenants)
    assert mix == Mix({"small": Caps(2048, 512), "big": Caps(2048, 512)}, list(tenants))


def test_usage_records_tell_what_the_simulated_requests_did() -> None:
    """Their guesses sum to those of the rounds that the target speculated in."""
    run = run_with_draft(2, 0.8)
    records = list(usage_records(run))
    done = [each for each in run.requests if each.ended_s is not None]
    assert len(records) == len(done) == 16
    assert [each.ended_s for each in records] == sorted(each.ended_s for each in records)
    assert sum(each.completion_tokens for each in records) == sum(
        each.arrival.output_tokens for each in done
    )
    assert all(each.total_ms >= (each.first_token_ms or 0) > 0 for each in records)
    drafted = sum(each.drafted_tokens for each in records)
    accepted = sum(each.accepted_tokens for each in records)
    assert run.draft is not None
    share = (run.draft.tokens_per_round - 1) / run.draft.levels
    assert accepted / drafted == pytest.approx(share, rel=0.02)
    plain = list(usage_records(run_with_draft(2, 0.0)))
    assert {each.drafted_tokens for each in plain} == {0}


def test_a_diurnal_trace_of_days_has_each_of_them() -> None:
    """Twice the same up and down, quiet at midnight between them."""
    caps = Mix({"t": Caps(64, 4)}, ["a"])
    times = [
        each.at_s / 3_600
        for each in draw_trace(Kind.DIURNAL, caps, duration_s=2 * DAY_S, per_s=0.02, seed=1)
    ]
    by_quarter = [sum(6 * n <= at < 6 * n + 6 for at in times) for n in range(8)]
    nights, days = by_quarter[0::4] + by_quarter[3::4], by_quarter[1:3] + by_quarter[5:7]
    assert max(nights) < 0.6 * min(days)


def command(*words: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(app, ["simulate", *words])
    last = result.stdout.splitlines()[-1] if result.stdout else "{}"
    return result.exit_code, json.loads(last), result.stdout


def test_the_command_writes_its_json_line_and_its_picture(tmp_path: Path) -> None:
    usage = tmp_path / "usage.jsonl"
    words = ("--minutes", "2", "--out", str(tmp_path), "--usage-out", str(usage))
    code, values, shown = command(*words)
    assert code == 0
    finished = sum(target["finished"] for target in values["targets"].values())
    assert len(usage.read_text().splitlines()) == finished > 0
    written = next(tmp_path.glob("simulate-*.json"))
    assert json.loads(written.read_text()) == values
    assert next(tmp_path.glob("simulate-*.png")).read_bytes()[:4] == b"\x89PNG"
    assert set(values["targets"]) == {"smollm2-135m", "smollm2-135m-int8"}
    assert values["card"]["seed"] == 1
    assert "commit b122691fc0d0" in shown


def test_the_command_compares_both_ways_to_scale_on_one_trace(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    words = ["--minutes", "5", "--compare-scaling", "--out", str(tmp_path)]
    code, values, _ = command(str(config), *words)
    assert code == 0
    assert values["requests"]["requests"] == values["tokens"]["requests"] > 100
    code, again, _ = command(str(config), *words)
    for run in (values, again):
        for by in ScaleBy:
            del run[by]["seconds"]
    assert values == again


def test_a_mistake_of_the_users_is_a_config_error(tmp_path: Path) -> None:
    for words, trouble in {
        ("--trace", str(tmp_path / "none")): "none: cannot be read",
        ("--costs", str(tmp_path / "none")): "none: cannot be read",
        ("--compare-scaling",): "no target of the config has `autoscaling`",
    }.items():
        result = CliRunner().invoke(app, ["simulate", *words, "--out", str(tmp_path)])
        assert isinstance(result.exception, ConfigError)
        assert trouble in result.exception.message
