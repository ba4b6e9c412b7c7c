"""LiteLLM, unchanged, against the HTTP edge over a scripted backend.

It runs in an environment of its own: it needs boto3, and another release of certifi than Ray's
world here.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.environments import TIMEOUT_S, environment
from tests.fakes_http import FakeBackend, app_over, serving
from tests.model_script import ARGUMENTS, CITY, like_a_model

HERE = Path(__file__).parent
PINS = HERE / "litellm.txt"
CLIENT = HERE / "litellm_client.py"
EITHER = pytest.mark.parametrize("kind", ["", " streamed"])


@pytest.fixture(scope="module")
def backend() -> FakeBackend:
    return FakeBackend(like_a_model)


@pytest.fixture(scope="module")
def answers(backend: FakeBackend) -> dict[str, Any]:
    """What LiteLLM made of the service's answers, by what it had asked."""
    python = environment(PINS)
    # Else it looks for prices on a foreign host.
    variables = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    variables.pop("PYTHONPATH", None)
    with serving(app_over(backend)) as url:
        done = subprocess.run(
            [python, CLIENT, url], capture_output=True, text=True, env=variables, timeout=TIMEOUT_S
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def calls_of(answer: dict[str, Any]) -> list[tuple[str, dict[str, int]]]:
    calls = answer["choices"][0]["message"]["tool_calls"]
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


@EITHER
def test_it_is_answered(answers: dict[str, Any], backend: FakeBackend, kind: str) -> None:
    answer = answers[f"text{kind}"]
    assert answer["choices"][0]["message"]["content"] == "Hello 0"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 14
    sampling = backend.requests[0][1].sampling
    assert (sampling.temperature, sampling.seed, sampling.stop) == (0.5, 3, ("x",))


@EITHER
def test_it_gets_many_choices(answers: dict[str, Any], kind: str) -> None:
    contents = [choice["message"]["content"] for choice in answers[f"choices{kind}"]["choices"]]
    assert contents == ["Hello 0", "Hello 1", "Hello 2"]


def test_it_gets_log_probabilities_whole_and_streamed(answers: dict[str, Any]) -> None:
    whole = answers["logprobs"]["choices"][0]["logprobs"]["content"]
    assert "".join(told["token"] for told in whole) == "Hello 0"
    assert [len(told["top_logprobs"]) for told in whole] == [2] * 7
    choices = [choice for chunk in answers["logprobs chunks"] for choice in chunk["choices"]]
    streamed = [c["logprobs"]["content"] for c in choices if c.get("logprobs")]
    assert [told["token"] for part in streamed for told in part] == list("Hello 0")


@EITHER
def test_it_calls_a_function(answers: dict[str, Any], kind: str) -> None:
    answer = answers[f"call{kind}"]
    assert answer["choices"][0]["message"]["content"] == "I add."
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert calls_of(answer) == [("add", ARGUMENTS)]
    assert answers["answered"]["choices"][0]["message"]["content"] == "The sum is 4."


@EITHER
@pytest.mark.parametrize("choice", ["required", "named"])
def test_it_forces_a_call(answers: dict[str, Any], choice: str, kind: str) -> None:
    assert calls_of(answers[f"{choice}{kind}"]) == [("add", ARGUMENTS)]


@EITHER
def test_it_gets_json_of_a_schema(answers: dict[str, Any], kind: str) -> None:
    assert json.loads(answers[f"schema{kind}"]["choices"][0]["message"]["content"]) == CITY
