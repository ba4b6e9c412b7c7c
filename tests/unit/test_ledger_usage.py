"""Usage: one record a request, totals that survive a restart."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from s2d_ray.policy.limits import Reason, Refusal
from s2d_ray.policy.usage import RefusalCounts, UsageRecord, UsageTotals
from s2d_ray.serve.line_log import LineLog

FILE = "usage.jsonl"
RECORD = UsageRecord(
    ended_s=1_700_000_000.123456,
    request_id="r1",
    tenant="acme",
    key_id="aabb",
    target="small",
    status=200,
    reserved_tokens=120,
    prompt_tokens=20,
    cached_tokens=16,
    completion_tokens=30,
    drafted_tokens=40,
    accepted_tokens=12,
    queue_ms=1.23456,
    first_token_ms=80.5,
    total_ms=900.0,
)


def test_a_record_is_one_line_of_json_with_all_its_fields() -> None:
    line = RECORD.line()
    assert "\n" not in line
    told = json.loads(line)
    assert told.keys() == {field.name for field in dataclasses.fields(UsageRecord)}
    assert (told["queue_ms"], told["ended_s"]) == (1.235, 1_700_000_000.123)
    assert dataclasses.replace(RECORD, request_id='a"\nb').line().count("\n") == 0


def test_totals_are_the_sums_of_records_by_tenant_and_target() -> None:
    totals = UsageTotals()
    totals.add(RECORD)
    totals.add(dataclasses.replace(RECORD, status=499, completion_tokens=1))
    totals.add(dataclasses.replace(RECORD, target="large"))
    totals.add(dataclasses.replace(RECORD, tenant="other"))
    assert totals.of(["acme"])["acme"]["small"] == {
        "requests": 2,
        "failed": 1,
        "refused": 0,
        "prompt_tokens": 40,
        "cached_tokens": 32,
        "completion_tokens": 31,
        "drafted_tokens": 80,
        "accepted_tokens": 24,
    }
    assert totals.of(["acme", "nobody"]).keys() == {"acme", "nobody"}
    assert totals.of(["nobody"])["nobody"] == {}


def test_totals_go_on_from_what_was_written_and_share_nothing_with_it() -> None:
    totals = UsageTotals()
    totals.add(RECORD)
    written = json.loads(json.dumps(totals.sums))
    resumed = UsageTotals.resumed(written)
    resumed.add(RECORD)
    assert resumed.sums["acme"]["small"]["requests"] == 2
    assert written["acme"]["small"]["requests"] == 1
    assert totals.of(["acme"])["acme"]["small"]["requests"] == 1


def test_sums_of_an_older_version_count_on() -> None:
    resumed = UsageTotals.resumed({"acme": {"small": {"requests": 3}}})
    resumed.add_refusal("acme", "small")
    resumed.add(RECORD)
    sums = resumed.of(["acme"])["acme"]["small"]
    assert (sums["requests"], sums["refused"], sums["prompt_tokens"]) == (4, 1, 20)


def test_a_flood_of_refusals_is_a_line_for_each_reason() -> None:
    counts = RefusalCounts()
    for _ in range(10_000):
        counts.add("acme", "small", Refusal("r", Reason.QUEUE_FULL))
    counts.add("acme", "small", Refusal("r", Reason.SERVICE_FULL))
    counts.add("other", "large", Refusal("r", Reason.TOO_MANY_TEXTS))
    lines = [json.loads(line) for line in counts.take(1_700_000_000.0)]
    assert [(one["tenant"], one["reason"], one["status"], one["requests"]) for one in lines] == [
        ("acme", "queue_full", 429, 10_000),
        ("acme", "service_full", 503, 1),
        ("other", "too_many_texts", 400, 1),
    ]
    assert counts.take(1_700_000_010.0) == []


def lines_of(folder: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in (folder / FILE).read_text().splitlines()]


def test_the_log_rotates_and_keeps_so_many_files(tmp_path: Path) -> None:
    log = LineLog(tmp_path / FILE, max_bytes=3 * len(RECORD.line()), num_files=2)
    for number in range(20):
        log.write(dataclasses.replace(RECORD, request_id=f"{number:02}").line())
    log.close()
    assert {path.name for path in tmp_path.iterdir()} == {FILE, f"{FILE}.1", f"{FILE}.2"}
    assert lines_of(tmp_path)[-1] == "19"
    assert log.num_lost == 0


def test_a_full_disk_loses_records_by_count_and_the_log_goes_on_after(tmp_path: Path) -> None:
    """/dev/full refuses every write as a full disk does."""
    (tmp_path / FILE).symlink_to("/dev/full")
    log = LineLog(tmp_path / FILE, max_bytes=10**6, num_files=1)
    for _ in range(3):
        log.write(RECORD.line())
    assert log.num_lost == 3
    (tmp_path / FILE).unlink()
    log.write(dataclasses.replace(RECORD, request_id="after").line())
    log.close()
    assert (log.num_lost, lines_of(tmp_path)) == (3, ["after"])
