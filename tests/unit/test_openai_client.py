"""The openai package, unchanged, with functions, formats, many choices and bare prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from s2d_ray.engine.messages import ChatPrompt, TextPrompt
from tests.fakes_http import SCRIPT, TEXT, FakeBackend, app_over, serving
from tests.model_script import ARGUMENTS, CITY, like_a_model

USER: Any = {"role": "user", "content": "hi"}


class City(BaseModel):
    """A city."""

    name: str
    people: int


class add(BaseModel):  # noqa: N801  (its name is the function's)
    """Add two numbers."""

    a: int
    b: int


TOOL: Any = openai.pydantic_function_tool(add)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(like_a_model)


@pytest.fixture
def client(backend: FakeBackend) -> Iterator[openai.OpenAI]:
    with (
        serving(app_over(backend)) as url,
        openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as found,
    ):
        yield found


@pytest.mark.parametrize(
    "choice", ["auto", "required", {"type": "function", "function": {"name": "add"}}]
)
def test_it_calls_a_function(client: openai.OpenAI, choice: Any) -> None:
    asked: Any = {"model": "tiny", "messages": [USER], "tools": [TOOL], "tool_choice": choice}
    parsed = client.chat.completions.parse(**asked).choices[0]
    assert parsed.finish_reason == "tool_calls"
    (call,) = parsed.message.tool_calls or ()
    assert call.function.parsed_arguments == add(**ARGUMENTS)
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.tool_calls is not None
    assert streamed.tool_calls[0].function.parsed_arguments == add(**ARGUMENTS)


def test_it_sends_a_call_and_its_answer_back(client: openai.OpenAI, backend: FakeBackend) -> None:
    message: Any = (
        client.chat.completions.create(model="tiny", messages=[USER], tools=[TOOL])
        .choices[0]
        .message
    )
    answer: Any = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "4"}
    again = client.chat.completions.create(
        model="tiny", messages=[USER, message, answer], tools=[TOOL]
    )
    assert again.choices[0].message.content == "The sum is 4."
    prompt = backend.requests[-1][1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1]["tool_calls"][0]["function"]["name"] == "add"


# The openai package warns of what its own parser makes.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_it_gets_an_object_of_a_class(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": [USER], "response_format": City}
    assert client.chat.completions.parse(**asked).choices[0].message.parsed == City(**CITY)
    with client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion()
    assert streamed.choices[0].message.parsed == City(**CITY)


def test_it_gets_many_choices_with_log_probabilities(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=[USER], n=2, logprobs=True, top_logprobs=3, logit_bias={"5": 1}
    )
    for number, choice in enumerate(reply.choices):
        assert choice.message.content == f"Hello {number}"
        assert choice.logprobs is not None
        told = choice.logprobs.content or []
        assert bytes(byte for token in told for byte in token.bytes or ()).decode() == (
            choice.message.content
        )
        assert [len(token.top_logprobs) for token in told] == [3] * len(told)


def test_it_continues_a_bare_prompt(client: openai.OpenAI, backend: FakeBackend) -> None:
    backend.script = SCRIPT
    reply = client.completions.create(model="tiny", prompt=["a", "b"], n=2)
    assert [choice.text for choice in reply.choices] == [TEXT] * 4
    assert backend.requests[0][1].prompt == TextPrompt("a")
    stream = client.completions.create(model="tiny", prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == TEXT


def test_it_is_told_which_field_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[USER], reasoning_effort="low")
    assert (caught.value.param, caught.value.code) == ("reasoning_effort", "unsupported_parameter")
