"""Every metric of the table is told, by the numbers that its help says, and by nobody else."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from s2d_ray.config import HttpConfig
from s2d_ray.core.calibration import AcceptanceModel, CalibrationMap, Knot
from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.core.proposals import Proposal
from s2d_ray.engine import guesses as guesses_module
from s2d_ray.engine.breaker import Circuit
from s2d_ray.engine.guesses import Guesses, Origin
from s2d_ray.engine.messages import Delta, GenerateRequest, Started, TextPrompt
from s2d_ray.engine.target_engine import EngineStatus, Figures
from s2d_ray.errors import Unavailable
from s2d_ray.observe.meter import FewNames, TargetGauges, Totals
from s2d_ray.observe.metric_table import METRICS, Kind, Metric, Teller
from s2d_ray.serve.draft_actor import DraftHealth
from s2d_ray.serve.draft_metrics import DraftTeller
from s2d_ray.serve.ingress import build_app
from s2d_ray.serve.metrics import ray_meter
from s2d_ray.serve.request_watch import RequestEnd
from s2d_ray.serve.router_metrics import RouterTeller
from s2d_ray.serve.target_metrics import TargetTeller
from tests.fakes_http import HANG, SCRIPT, USAGE, FakeBackend, chat_body, post, text_body
from tests.ledger_site import CHAT, Receiver, site, until
from tests.metering import Told

END = RequestEnd(
    request_id="r",
    tenant="acme",
    target="tiny",
    status=200,
    why="named",
    prompt_tokens=7,
    cached_tokens=2,
    output_tokens=4,
    drafted_tokens=5,
    accepted_tokens=2,
    queue_s=0.5,
    first_token_s=1.0,
    later_tokens=3,
    later_token_s=0.3,
    total_s=1.5,
)
STATUS = EngineStatus(
    True,
    queue_depth=3,
    outstanding_tokens=90,
    silent_s=0.0,
    counters={
        "rounds": 6,
        "output_tokens": 9,
        "draft_misses": 1,
        "prefix_evictions": 2,
        "preemptions": 1,
    },
    control={"benefit": {"2": {"is_on": True, "ratio": 1.2, "low": 1.1, "high": 1.3}}},
    figures=Figures(
        num_waiting=1,
        num_running=2,
        kv_tokens={"used": 64, "kept": 64, "total": 256},
        drafted={(0, 0): 2, (4, 1): 3},
        accepted={(0, 0): 1, (4, 1): 2},
        calibration_errors={4: 0.05},
        plans={"chat": {2: Plan((0.6, 0.7), 0.1, 3)}},
    ),
)
CALLS = {"calls_answered": 4, "call_microseconds": 8_000}
HEALTH = DraftHealth(
    1,
    "node",
    0.0,
    2,
    {
        "steps": 5,
        "step_rows": 8,
        "drafted_by_2": 6,
        "drafted_by_4": 2,
        "sessions": 3,
        "evicted_sessions": 1,
        "busy_microseconds": 250_000,
    },
)


# Meters -------------------------------------------------------------------------------------------


def test_a_metric_or_label_that_the_table_lacks_is_refused() -> None:
    meter = Told().meter
    with pytest.raises(KeyError):
        meter.tell("nonsense")
    for labels in ({}, {"tenant": "a"}, {"target": "a", "tenant": "b"}):
        with pytest.raises(ValueError, match="metric failovers has labels"):
            meter.tell("failovers", 1.0, **labels)


def test_a_total_is_told_by_what_it_grew_and_from_0_if_it_fell() -> None:
    told = Told()
    totals = Totals(told.meter)
    sums = []
    for total in (3, 3, 5, 2, 4):
        totals.tell("hops", total, target="a")
        sums.append(told.value("hops", target="a"))
    totals.tell("hops", 1, target="b")
    assert sums == [3, 3, 5, 7, 9]
    assert told.value("hops", target="b") == 1


def test_names_beyond_the_first_ones_share_a_label_and_the_first_keep_theirs() -> None:
    label_of = FewNames(2)
    assert [label_of(name) for name in "abcab"] == ["a", "b", "other", "a", "b"]


def test_a_target_that_is_gone_ends_at_0() -> None:
    told = Told()
    gauges = TargetGauges(told.meter)
    gauges.tell("replicas", {"a": 2, "b": 1})
    gauges.tell("replicas", {"b": 3})
    assert told.value("replicas", target="a") == 0
    assert told.value("replicas", target="b") == 3


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_ray_takes_every_metric_by_its_name_labels_and_bounds(metric: Metric) -> None:
    ray_meter().tell(metric.name, 0.5, **dict.fromkeys(metric.labels, "a"))


# Tellers ------------------------------------------------------------------------------------------


def table(teller: Teller) -> set[str]:
    return {metric.name for metric in METRICS if metric.teller is teller}


def test_the_router_tells_all_its_metrics_and_counters_once_for_each_request() -> None:
    told = Told()
    router = RouterTeller(told.meter, most_tenants=1)
    for tenant in ("acme", "other-one"):
        router.begun("tiny")
        router.ended(RequestEnd(**vars(END) | {"tenant": tenant}))
    router.begun("tiny")
    router.failed_over("tiny")
    for _ in range(2):
        router.tell({"tiny": 2})
    assert told.names() == table(Teller.ROUTER)
    assert told.value("requests", tenant="acme", target="tiny", status="200") == 1
    assert told.value("requests", tenant="other", target="tiny", status="200") == 1
    assert told.value("tokens", tenant="acme", target="tiny", kind="cached") == 2
    assert told.value("open_requests", target="tiny") == 1
    assert told.value("later_token_seconds", target="tiny") == 0.6
    assert told.observed["token_s", (("target", "tiny"),)] == [0.3 / 3] * 2


def test_each_mean_has_its_pair_and_each_histogram_its_bounds() -> None:
    kinds = {metric.name: metric for metric in METRICS}
    for name, metric in kinds.items():
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.bounds)
        if metric.kind is Kind.HISTOGRAM:
            sums = {"token_s": "later_token_seconds"}.get(
                name, name.removesuffix("_s") + "_seconds"
            )
            assert kinds[sums].kind is Kind.COUNTER


def test_a_target_tells_all_its_metrics_and_its_counters_by_what_they_grew() -> None:
    told = Told()
    target = TargetTeller(told.meter, "tiny")
    for _ in range(2):
        target.tell(STATUS, CALLS, Circuit.HALF_OPEN, (2, 4, 8))
    assert told.names() == table(Teller.TARGET)
    assert told.value("hop_seconds", target="tiny") == 0.008
    assert told.value("drafted", target="tiny", by="tier-0", position="0") == 2
    assert told.value("accepted", target="tiny", by="exit-4", position="1") == 2
    assert told.value("circuit", target="tiny") == 1
    plan = {"target": "tiny", "task": "chat", "load": "2"}
    assert told.value("plan", **plan, field="exit-2") == 0.6
    assert told.value("plan", **plan, field="exit-4") == 0.7
    assert told.value("plan", **plan, field="max_proposal") == 3
    assert told.value("plan", **plan, field="exit-8") is None, "the deepest exit has no threshold"
    assert told.value("speedup", target="tiny", load="2", bound="low") == 1.1


def test_a_target_without_a_draft_tells_of_no_circuit_and_of_no_benefit() -> None:
    told = Told()
    TargetTeller(told.meter, "tiny").tell(EngineStatus(True, 0, 0, 0.0), {}, None, ())
    assert told.names() == {"queue_depth", "outstanding_tokens"}


def test_the_manager_tells_all_of_the_draft_and_each_life_from_0() -> None:
    told = Told()
    manager = DraftTeller(told.meter)
    manager.tell(1, None, is_up=False)
    assert told.value("draft_up") == 0
    for num_starts in (1, 1, 2):
        manager.tell(num_starts, HEALTH, is_up=True)
    assert told.names() == table(Teller.DRAFT)
    assert told.value("draft_starts") == 2
    assert told.value("draft_steps") == 10, "two lives of five steps"
    assert told.value("draft_busy_seconds") == 0.5
    assert told.value("draft_tokens", exit="2") == 12


def test_the_ledger_tells_all_its_metrics(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, requests_per_minute=1) as made:
            client = made.client(FakeBackend())
            for _ in range(3):
                await client.post(CHAT, json=chat_body(), headers=made.tenants.header("acme"))
            await until(lambda: made.told.names() == table(Teller.LEDGER))
            assert made.told.value("held_requests", target="tiny-int8") == 0
            why = {"target": "tiny", "reason": "requests_per_minute"}
            assert made.told.value("refusals", tenant="acme", **why) == 2

    asyncio.run(run())


# Guesses ------------------------------------------------------------------------------------------


def guessed(guesses: Guesses, task: str, confidence: float, *, right: bool) -> None:
    """A chain of one guess."""
    request = GenerateRequest(
        "r", TextPrompt(""), SamplingParams(seed=1, temperature=0.0), Plan(), task=task
    )
    origins = (Origin(4, confidence, 0),)
    guesses.take(request, Proposal.chain([1]), origins, (1,) if right else (), 1 + right)


def test_the_calibration_error_is_the_distance_of_p_and_what_was_accepted() -> None:
    guesses = Guesses()
    for number in range(10):
        guessed(guesses, "chat", 0.75, right=number < 5)
    assert guesses.errors() == {4: pytest.approx(0.25)}
    knots = (Knot(0.0, 0.5, 0.4, 0.6, 9.0),)
    guesses.go_by({"chat": AcceptanceModel((CalibrationMap(4, 0.0, 0, knots),))})
    assert guesses.errors() == {}, "another calibration begins anew"
    for number in range(10):
        guessed(guesses, "poetry", 0.75, right=number < 5)
    assert guesses.errors() == {4: pytest.approx(0.0)}, "the first class serves others"


def test_an_error_is_of_the_latest_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses_module, "REMEMBERED", 32)
    guesses = Guesses()
    for right in (True, False):
        for _ in range(300):
            guessed(guesses, "", 0.5, right=right)
    assert guesses.errors()[4] == pytest.approx(0.5, abs=0.01), "not 0, as over all of them"


def test_guesses_of_a_tree_count_at_their_depth_and_behind_an_end_nothing_is_accepted() -> None:
    guesses = Guesses()
    request = GenerateRequest("r", TextPrompt(""), SamplingParams(seed=1), Plan())
    tree = Proposal((5, 6, 7, 8), (0, 0, 1, 3))
    origins = tuple(Origin(by, 0.5, rank) for by, rank in ((2, 0), (2, 1), (4, 0), (4, 0)))
    guesses.take(request, tree, origins, (1, 3, 4), 2)
    assert guesses.drafted == Counter({(2, 0): 2, (4, 1): 1, (4, 2): 1})
    assert +guesses.accepted == Counter({(2, 0): 1, (4, 1): 1})


# Ends of requests ---------------------------------------------------------------------------------


class Seen:
    """An observer that remembers."""

    traces = False

    def __init__(self) -> None:
        self.begins: list[str] = []
        self.ends: list[RequestEnd] = []

    def begun(self, target: str) -> None:
        self.begins.append(target)

    def ended(self, end: RequestEnd) -> None:
        self.ends.append(end)

    @property
    def one(self) -> RequestEnd:
        (end,) = self.ends
        assert self.begins == [end.target]
        return end


def ask(backend: FakeBackend, **fields: Any) -> tuple[httpx.Response, Seen]:
    seen = Seen()
    return post(build_app(backend, HttpConfig(), observer=seen), **fields), seen


@pytest.mark.parametrize("stream", [False, True])
def test_a_served_request_ends_once_with_what_it_took(stream: bool) -> None:
    answer, seen = ask(FakeBackend(), stream=stream)
    assert answer.status_code == 200
    end = seen.one
    assert (end.status, end.tenant, end.target, end.queue_s) == (200, "-", "tiny", None)
    assert (end.prompt_tokens, end.output_tokens) == (7, USAGE.completion_tokens)
    assert (end.drafted_tokens, end.accepted_tokens) == (5, 2)
    assert end.first_token_s is not None
    assert 0 < end.first_token_s <= end.total_s
    assert end.later_tokens == 3
    assert 0 < end.later_token_s < end.total_s


def test_texts_of_one_prompt_read_it_once() -> None:
    end = ask(FakeBackend(), n=3)[1].one
    assert (end.prompt_tokens, end.output_tokens, end.later_tokens) == (7, 12, 9)
    seen = Seen()
    app = build_app(FakeBackend(), HttpConfig(), observer=seen)
    transport = httpx.ASGITransport(app=app)

    async def two_prompts() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.post("/v1/completions", json=text_body(prompt=["a", "b"]))

    asyncio.run(two_prompts())
    assert seen.one.prompt_tokens == 14


REFUSED = Unavailable("no", code="queue_full")


@pytest.mark.parametrize(
    ("script", "stream", "status", "first"),
    [
        ([REFUSED], False, 503, False),
        ([REFUSED], True, 503, False),
        ([Started(7), Delta("a"), REFUSED], False, 503, True),
        ([Started(7), Delta("a"), REFUSED], True, 503, True),
        ([Started(7), Delta("a"), RuntimeError("broken")], True, 500, True),
    ],
)
def test_a_request_that_fails_ends_once_with_the_status_of_its_error(
    script: list[Any], stream: bool, status: int, first: bool
) -> None:
    end = ask(FakeBackend(script), stream=stream)[1].one
    assert end.status == status
    assert (end.first_token_s is not None) == first


def test_a_request_without_a_target_is_not_told_of_and_one_refused_before_is() -> None:
    for fields in ({"model": "nobody"}, {"temperature": 9}):
        answer, seen = ask(FakeBackend(), **fields)
        assert answer.status_code in (400, 404)
        assert (seen.begins, seen.ends) == ([], [])


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_request_with_499(stream: bool) -> None:
    seen = Seen()
    backend = FakeBackend([*SCRIPT[:2], HANG])
    app = build_app(backend, HttpConfig(), observer=seen)

    async def run() -> None:
        client = Receiver(app, {"content-type": "application/json"}, chat_body(stream=stream))
        await until(backend.hanging.is_set)
        client.leave()
        await client.task

    asyncio.run(run())
    assert (seen.one.status, seen.one.prompt_tokens, seen.one.later_tokens) == (499, 7, 0)


def test_with_tenants_the_wait_at_the_ledger_is_told_and_what_it_refuses_too(
    tmp_path: Path,
) -> None:
    seen = Seen()

    async def run() -> None:
        async with site(tmp_path, requests_per_minute=1, modes=["off"]) as made:
            client = made.client(FakeBackend(), observer=seen)
            for mode in ("off", "off", "auto"):
                body = chat_body(s2d={"mode": mode})
                await client.post(CHAT, json=body, headers=made.tenants.header("acme"))

    asyncio.run(run())
    assert [end.status for end in seen.ends] == [200, 429, 403]
    assert {end.tenant for end in seen.ends} == {"acme"}
    served, refused, forbidden = seen.ends
    assert served.queue_s is not None
    assert served.queue_s >= 0
    assert refused.queue_s is forbidden.queue_s is None
    assert len(seen.begins) == 3


def test_the_end_of_a_request_is_one_line_of_fields_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "ray.serve"):
        router = RouterTeller(Told().meter, 1)
        app = build_app(FakeBackend(), HttpConfig(), observer=router)
        post(app, messages=[{"role": "user", "content": "a secret"}])
    (line,) = [record for record in caplog.records if hasattr(record, "total_ms")]
    fields = {"tenant": "-", "target": "tiny", "status": 200, "output_tokens": 4}
    assert vars(line).items() >= fields.items()
    assert "secret" not in str(vars(line))


# Documentation ------------------------------------------------------------------------------------


def documented() -> str:
    """The table in docs/metrics.md."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        told = f"{metric.teller.value}: {metric.help}"
        lines.append(f"| `{metric.exported}` | {metric.kind.value} | {labels} | {told} |")
    return "\n".join(lines)


def test_the_table_in_the_documentation_is_that_of_the_metrics() -> None:
    """Replace it by what `documented` makes when this fails."""
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert documented() in page
    exported = {metric.exported for metric in METRICS}
    for name in re.findall(r"ray_s2d_\w+", page):
        assert re.sub(r"_(bucket|count)$", "", name) in exported | {"ray_s2d_"}
