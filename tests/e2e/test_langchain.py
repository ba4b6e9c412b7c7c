"""LangChain's ChatOpenAI, unchanged, against the HTTP edge over a scripted backend."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import reduce
from operator import add as joined
from typing import Any

import httpx
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from s2d_ray.core.params import JsonFormat
from s2d_ray.engine.messages import ChatPrompt, GenerateRequest
from tests.fakes_http import FakeBackend, app_over, serving
from tests.model_script import ARGUMENTS, CITY, like_a_model

Make = Callable[..., ChatOpenAI]


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(like_a_model)


@pytest.fixture
def make(backend: FakeBackend) -> Iterator[Make]:
    with serving(app_over(backend)) as url, httpx.Client() as client:
        service: dict[str, Any] = {
            "base_url": f"{url}/v1",
            "api_key": "none",
            "model": "tiny",
            "max_retries": 0,
            "http_client": client,
        }
        yield lambda **options: ChatOpenAI(**service, **options)


def last(backend: FakeBackend) -> GenerateRequest:
    return backend.requests[-1][1]


def test_it_is_answered_whole_and_streamed(make: Make, backend: FakeBackend) -> None:
    chat = make(temperature=0.5, seed=3, stop=["x"], max_tokens=9, presence_penalty=0.5)
    turns = [SystemMessage("be brief"), HumanMessage("hi")]
    whole = chat.invoke(turns)
    assert whole.content == "Hello 0"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] == 14
    sampling = last(backend).sampling
    assert (sampling.temperature, sampling.seed, sampling.stop) == (0.5, 3, ("x",))
    assert (sampling.max_tokens, sampling.presence_penalty) == (9, 0.5)
    chunk = reduce(joined, chat.stream(turns, stream_usage=True))
    assert chunk.content == "Hello 0"
    assert chunk.usage_metadata == whole.usage_metadata
    assert chunk.response_metadata["finish_reason"] == "stop"


def test_it_gets_many_choices(make: Make) -> None:
    (generations,) = make(n=3).generate([[HumanMessage("hi")]]).generations
    assert [generation.text for generation in generations] == ["Hello 0", "Hello 1", "Hello 2"]


def test_it_gets_log_probabilities_whole_and_streamed(make: Make) -> None:
    chat = make(logprobs=True, top_logprobs=2)
    whole = chat.invoke("hi").response_metadata["logprobs"]["content"]
    assert "".join(told["token"] for told in whole) == "Hello 0"
    assert [len(told["top_logprobs"]) for told in whole] == [2] * 7
    streamed = reduce(joined, chat.stream("hi")).response_metadata["logprobs"]["content"]
    assert streamed == whole


def test_it_calls_a_function_and_is_told_the_answer(make: Make, backend: FakeBackend) -> None:
    chat = make().bind_tools([add])
    turns: list[Any] = [HumanMessage("1 + 3?")]
    called = chat.invoke(turns)
    assert called.content == "I add."
    (call,) = called.tool_calls
    assert (call["name"], call["args"]) == ("add", ARGUMENTS)
    streamed = reduce(joined, chat.stream(turns))
    assert [(c["name"], c["args"]) for c in streamed.tool_calls] == [("add", ARGUMENTS)]
    turns += [called, ToolMessage(str(add.invoke(call["args"])), tool_call_id=call["id"])]
    assert chat.invoke(turns).content == "The sum is 4."
    prompt = last(backend).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1]["tool_calls"][0]["function"]["name"] == "add"
    assert prompt.tools[0]["function"]["parameters"]["required"] == ["a", "b"]


@pytest.mark.parametrize("choice", ["add", "any", "required"])
def test_it_forces_a_call(make: Make, backend: FakeBackend, choice: str) -> None:
    chat = make().bind_tools([add], tool_choice=choice)
    for answer in (chat.invoke("hi"), reduce(joined, chat.stream("hi"))):
        assert [(c["name"], c["args"]) for c in answer.tool_calls] == [("add", ARGUMENTS)]
    assert last(backend).sampling.format is not None


# The openai package warns of what LangChain makes it parse.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("streamed", [False, True])
def test_it_gets_an_object_of_a_class(
    make: Make, backend: FakeBackend, method: Any, streamed: bool
) -> None:
    chat = make().with_structured_output(City, method=method)
    city = list(chat.stream("Paris as JSON"))[-1] if streamed else chat.invoke("Paris as JSON")
    assert city == City(**CITY)
    held_to = last(backend).sampling.format
    assert isinstance(held_to, JsonFormat)
    if method == "json_mode":
        assert held_to.schema is None
    else:
        assert held_to.schema is not None
        assert set(json.loads(held_to.schema)["properties"]) == {"name", "people"}
