"""A request that asks for a trace is followed from the router to the draft, and no other one is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from s2d_ray.config import HttpConfig, TelemetryConfig, parse_config
from s2d_ray.core.cascade import Plan
from s2d_ray.core.params import SamplingParams
from s2d_ray.engine.messages import Event, GenerateRequest, Tag, TextPrompt
from s2d_ray.engine.protocol import ProposeCall, ProposeReply, ProposeRow, RowReply, RowStatus
from s2d_ray.engine.sequence import Sequence
from s2d_ray.errors import ConfigError
from s2d_ray.observe.spans import Span, asked_for, child_of
from s2d_ray.serve import tracing
from s2d_ray.serve.checks import check_config
from s2d_ray.serve.draft_watch import DraftWatch
from s2d_ray.serve.failover import Failover
from s2d_ray.serve.ingress import build_app
from s2d_ray.serve.router_metrics import RouterTeller
from s2d_ray.serve.text_watch import TextWatcher
from s2d_ray.serve.tracing import SpanFile, exporter
from tests.fakes_http import SCRIPT, FakeBackend, chat_body
from tests.metering import Told

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADER = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("header", "asks"),
    [
        (None, False),
        ("", False),
        ("nonsense", False),
        (HEADER, True),
        (HEADER[:-2] + "00", False),
        (HEADER[:-2] + "03", True),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        ("ff" + HEADER[2:], False),
        ("01" + HEADER[2:] + "-more", True),
        (HEADER + "-more", False),
        (HEADER.upper(), False),
    ],
)
def test_only_a_sampled_and_well_formed_header_asks(header: str | None, asks: bool) -> None:
    assert asked_for(header) == (HEADER if asks else "")


def test_a_child_is_of_the_same_trace_under_a_name_of_its_own() -> None:
    one, other = child_of(HEADER), child_of(HEADER)
    assert one != other
    span = Span("a", one, HEADER, 1, 2, {})
    assert span.ids[0] == int(TRACE, 16)
    assert span.ids[2] == int("b7ad6b7169203331", 16)
    assert asked_for(one) == one


class Written(FakeBackend):
    """A backend whose texts go through a target's watch, and a draft's."""

    def __init__(self, spans: list[Span], *, traces: bool = True) -> None:
        super().__init__(SCRIPT)
        self._spans = spans
        self._watcher = TextWatcher("tiny", spans.append if traces else None)

    async def generate(self, target: str, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        with self._watcher.watch(request) as (watched, observe):
            self._draft(watched)
            async for event in super().generate(target, watched):
                observe((event,))
                yield event

    def _draft(self, request: GenerateRequest) -> None:
        tag = request.tag if request.tag.traceparent else None
        row = ProposeRow(
            request.request_id, 0, (1,), 0, 9, Plan(), seed=1, temperature=0.0, tag=tag
        )
        call = ProposeCall("replica", 1, 100.0, (row, replace(row, draft_session="b", tag=None)))
        answers = [RowReply(each, 1, RowStatus.OK, (5, 6)) for each in (request.request_id, "b")]
        DraftWatch(self._spans.append).answered(call, ProposeReply(1, tuple(answers)), 7)


def spans_of(headers: dict[str, str], *, traces: bool = True) -> list[Span]:
    spans: list[Span] = []
    router = RouterTeller(Told().meter, 1, spans.append if traces else None)
    app = build_app(Written(spans, traces=traces), HttpConfig(), observer=router)
    transport = httpx.ASGITransport(app=app)

    async def run() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body = chat_body(messages=[{"role": "user", "content": "a secret"}])
            await client.post("/v1/chat/completions", json=body, headers=headers)

    asyncio.run(run())
    return spans


def test_spans_of_router_target_and_draft_hang_together() -> None:
    spans = spans_of({"traceparent": HEADER, "x-request-id": "mine"})
    by_name = {span.name: span for span in spans}
    assert len(by_name) == len(spans) == 3
    request, target, draft = by_name["request"], by_name["target"], by_name["draft"]
    assert request.parent == HEADER
    assert target.parent == request.traceparent
    assert draft.parent == target.traceparent
    assert {span.ids[0] for span in spans} == {int(TRACE, 16)}
    assert {span.attributes["request_id"] for span in spans} == {"mine"}
    assert (target.attributes["attempt"], target.attributes["ended"]) == (0, "stop")
    assert (draft.attributes["guesses"], draft.started_ns) == (2, 7)
    assert all(span.started_ns < span.ended_ns for span in spans)
    assert "secret" not in str(spans)


def test_who_does_not_ask_is_not_traced_and_nobody_is_where_traces_are_off() -> None:
    assert spans_of({}) == []
    assert spans_of({"traceparent": HEADER[:-2] + "00"}) == []
    assert spans_of({"traceparent": HEADER}, traces=False) == []


def request(tag: Tag) -> GenerateRequest:
    sampling = SamplingParams(seed=1, temperature=0.0, max_tokens=4)
    return GenerateRequest("text", TextPrompt(""), sampling, Plan(), tag=tag)


def test_a_row_carries_the_tag_of_a_traced_text_alone() -> None:
    class Sink:
        """Not written to here."""

    for tag in (Tag("r"), Tag("r", traceparent=HEADER)):
        text = Sequence(request(tag), [1, 2], 9, Sink(), frozenset())  # type: ignore[arg-type]
        assert text.propose_row().tag == (tag if tag.traceparent else None)


def test_a_text_that_moves_on_says_which_attempt_it_is() -> None:
    failover = Failover(request(Tag("r", "acme")))
    assert failover.again().tag == Tag("r", "acme", 1)
    assert failover.again().tag == Tag("r", "acme", 2)


def test_spans_go_to_files_as_opentelemetry_writes_them(tmp_path: Path) -> None:
    config = TelemetryConfig.model_validate({"traces": "file", "traces_dir": str(tmp_path / "t")})
    export = exporter(config, "router")
    assert isinstance(export, SpanFile)
    own = child_of(HEADER)
    for failed in (False, True):
        export(Span("request", own, HEADER, 10**18, 10**18 + 5, {"status": 200}, failed))
    export.close()
    [file] = (tmp_path / "t").iterdir()
    first, second = map(json.loads, file.read_text().splitlines())
    assert first["context"]["trace_id"] == f"0x{TRACE}"
    assert first["parent_id"] == "0xb7ad6b7169203331"
    assert first["attributes"] == {"status": 200}
    assert first["resource"]["attributes"]["s2d.process"] == "router"
    assert second["status"]["status_code"] == "ERROR"
    assert exporter(TelemetryConfig(), "router") is None


CONFIG = "targets: {a: {model: nowhere}}\ntelemetry: "


def test_traces_need_a_place_and_otlp_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, key in (("file", "traces_dir"), ("otlp", "otlp_endpoint")):
        with pytest.raises(ConfigError, match=f"traces: {kind} needs {key}"):
            parse_config(f"{CONFIG}{{traces: {kind}}}", "a.yaml")
    config = parse_config(f"{CONFIG}{{traces: otlp, otlp_endpoint: 'http://c/v1'}}", "a.yaml")
    for is_there in (True, False):
        monkeypatch.setattr(tracing, "find_spec", lambda name, found=is_there: found or None)
        named = [line for line in check_config(config) if "needs the package" in line]
        assert len(named) == (not is_there)
