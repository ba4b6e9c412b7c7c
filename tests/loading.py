"""Open-loop load from AIPerf, which draws prompts and arrivals and keeps the statistics.

Requests arrive by Poisson's law, whatever has been answered so far, so a service that falls behind
shows it. Tokens are counted by the service.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2d_ray.errors import RunError
from tests.environments import environment

PINS = Path(__file__).with_name("aiperf.txt")
PERCENTILES = ("p50", "p95", "p99")
SPREAD = 4
"""Lengths are normal around their means, which are so many standard deviations."""


@dataclass(frozen=True)
class Load:
    """What is asked of one model. Lengths are means, in tokens; of prompts by `tokenizer`.

    patience_s: longest time of a request; then it is given up, which is an error.
    """

    model: str
    per_s: float
    seconds: float
    tokenizer: Path
    prompt_tokens: int = 100
    output_tokens: int = 50
    seed: int = 1
    patience_s: float = 120.0

    def options(self) -> list[str]:
        """For AIPerf."""
        # Each text as long as it asks for, and drawn alike in each run.
        extra = {"ignore_eos": True, "seed": self.seed}
        return [
            *("--model", self.model, "--endpoint-type", "chat", "--streaming"),
            *("--request-rate", f"{self.per_s:g}", "--arrival-pattern", "poisson"),
            *("--benchmark-duration", f"{self.seconds:g}"),
            *("--benchmark-grace-period", "inf"),
            *("--request-timeout-seconds", f"{self.patience_s:g}"),
            *("--isl", str(self.prompt_tokens), "--isl-stddev", f"{self.prompt_tokens / SPREAD:g}"),
            *("--osl", str(self.output_tokens), "--osl-stddev", f"{self.output_tokens / SPREAD:g}"),
            *("--tokenizer", str(self.tokenizer), "--use-server-token-count"),
            *("--random-seed", str(self.seed), "--extra-inputs", json.dumps(extra)),
        ]


def offer(url: str, load: Load, folder: Path, key: str | None = None) -> dict[str, Any]:
    """Put a load on the service at `url`. -> its figures; AIPerf's own files are in `folder`.

    Raises RunError if AIPerf fails, or no request was answered.
    """
    command = [environment(PINS).with_name("aiperf"), "profile", "--url", url, *load.options()]
    # One worker is enough for what a machine serves that it shares with the load.
    command += ["--workers-max", "1", "--record-processors", "1", "--export-level", "summary"]
    command += ["--no-gpu-telemetry", "--no-server-metrics", "--output-artifact-dir", folder]
    command += ["--ui", "simple" if sys.stderr.isatty() else "none"]
    command += ["--api-key", key] if key else []
    # With the second one, it would take the tokenizer's folder for the name of a model.
    left_out = {"PYTHONPATH", "HF_HUB_OFFLINE"}
    variables = {name: value for name, value in os.environ.items() if name not in left_out}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "stdout").open("w") as output:
        done = subprocess.run(command, env=variables, stdout=output)
    summary = folder / "profile_export_aiperf.json"
    if done.returncode or not summary.exists():
        tail = (folder / "stdout").read_text(errors="replace").strip()[-2_000:]
        raise RunError(f"AIPerf ended with {done.returncode}, or nothing was answered:\n{tail}")
    return figures(json.loads(summary.read_text()))


def figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is reported, out of AIPerf's summary.

    ttft_ms: until the first token; tpot_ms: per token behind it; both of answered requests.
    Rates are over the time from the first request until the last answer ended; AIPerf's own also
    count the patience with what was given up.
    """
    answered = round(summary["request_count"]["avg"])
    output_tokens = round(summary["total_osl"]["avg"])
    seconds = summary["benchmark_duration"]["avg"]
    errors = by_kind(summary["error_summary"])
    return {
        "requests": answered + sum(errors.values()),
        "answered": answered,
        "errors": errors,
        "seconds": seconds,
        "requests_per_s": answered / seconds,
        "goodput_tokens_per_s": output_tokens / seconds,
        "prompt_tokens": round(summary["total_isl"]["avg"]),
        "output_tokens": output_tokens,
        "ttft_ms": {name: summary["time_to_first_token"][name] for name in PERCENTILES},
        "tpot_ms": {name: summary["inter_token_latency"][name] for name in PERCENTILES},
    }


def by_kind(errors: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many requests failed with each status and code, such as "503 queue_full".

    Without an answer there is only the kind of the failure.
    """
    counts: Counter[str] = Counter()
    for error in errors:
        details = error["error_details"]
        try:
            kind = json.loads(details["message"])["error"]["code"]
        except (KeyError, TypeError, ValueError):
            kind = details["type"]
        status = details.get("code")
        counts[f"{status} {kind}" if status else kind] += error["count"]
    return dict(counts.most_common())
