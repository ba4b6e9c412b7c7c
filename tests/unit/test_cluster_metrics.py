"""Metrics of several nodes are one text that Prometheus reads, and a silent node hides no other."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families

from s2d_ray.serve.cluster_metrics import merge, merged_metrics

HEAD = "# HELP rounds_total Rounds.\n# TYPE rounds_total counter\n"
OTHER = "# HELP depth Depth.\n# TYPE depth histogram\n"
FIRST = HEAD + 'rounds_total{node="a"} 3.0\n' + OTHER + 'depth_bucket{le="1"} 1\ndepth_count 1\n'
SECOND = OTHER + "depth_sum 2\n" + HEAD + 'rounds_total{node="b"} 4.0\n'


def test_a_family_stands_once_and_together() -> None:
    text = merge([FIRST, SECOND])
    assert text == (
        HEAD
        + 'rounds_total{node="a"} 3.0\nrounds_total{node="b"} 4.0\n'
        + OTHER
        + 'depth_bucket{le="1"} 1\ndepth_count 1\ndepth_sum 2\n'
    )
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert {sample.value for sample in found["rounds"].samples} == {3.0, 4.0}


def test_one_text_and_none_stay_what_they_are() -> None:
    assert merge([FIRST]) == FIRST
    assert merge([]) == ""


def test_samples_without_a_head_and_comments_break_nothing() -> None:
    assert merge(["# a comment\nbare 1\n", "\nbare 2\n#\n"]) == "bare 1\nbare 2\n"


def test_a_node_that_does_not_answer_is_left_out_and_counted() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "silent":
            raise httpx.ConnectTimeout("no answer")
        return httpx.Response(500 if request.url.host == "broken" else 200, text=FIRST)

    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            urls = [f"http://{name}/metrics" for name in ("well", "silent", "broken")]
            return await merged_metrics(client, urls)

    assert asyncio.run(ask()) == FIRST + "# 1 of 3 nodes answered, 2 did not\n"
