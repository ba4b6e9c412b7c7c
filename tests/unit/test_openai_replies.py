"""Replies of many choices, calls of functions, log-probabilities, and texts of bare prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from s2d_ray import __version__
from s2d_ray.core.hashing import choice_seed
from s2d_ray.engine.messages import (
    ChatPrompt,
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Refused,
    RoundCount,
    Started,
    TextPrompt,
    TokenLogprob,
    TokenTrace,
    Usage,
)
from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.usage import metrics_body, total
from tests.fakes_http import (
    FINISHED,
    HANG,
    TEXT,
    FakeBackend,
    Step,
    app_over,
    call,
    chat_body,
    events,
    post,
    text_body,
)

COMPLETIONS = "/v1/completions"
TOOLS = [
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "ask"}},
]
ADD = '{"a": 1}'
MARKED = f'<tool_call>{{"name": "add", "arguments": {ADD}}}</tool_call>'


def number_of(request: GenerateRequest) -> int:
    """The number of the choice that a request writes."""
    return int(request.request_id.rpartition("-")[2])


def numbered(request: GenerateRequest) -> Sequence[Step]:
    """Each choice writes its own number, twice, and counts so many tokens."""
    number = number_of(request)
    usage = Usage(7, number, 2, 3, 1, {4: 1}, 1, (RoundCount(1, 1, 1), RoundCount(2, 0, 1)))
    texts = [Delta(f"{number}"), Delta(f"{number}")]
    return [Started(7), *texts, Finished(FinishReason.STOP, usage)]


def writing(*texts: str, reason: FinishReason = FinishReason.STOP) -> FakeBackend:
    return FakeBackend([Started(7), *map(Delta, texts), Finished(reason, Usage(7))])


def joined(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What the chunks of a stream of chats say, by choice."""
    found: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        told = found.setdefault(choice["index"], {"content": "", "calls": [], "logprobs": []})
        delta = choice["delta"]
        told["content"] += delta.get("content") or ""
        told["finish_reason"] = choice["finish_reason"]
        told["logprobs"] += (choice.get("logprobs") or {}).get("content", [])
        for part in delta.get("tool_calls", []):
            if part["index"] == len(told["calls"]):
                told["calls"].append(part["function"] | {"id": part["id"]})
            else:
                told["calls"][part["index"]]["arguments"] += part["function"]["arguments"]
    return found


# Many choices


def test_each_choice_is_a_request_of_its_own_with_its_own_seed() -> None:
    backend = FakeBackend(numbered)
    body = post(app_over(backend), n=3, seed=5).json()
    contents = [choice["message"]["content"] for choice in body["choices"]]
    assert contents == ["00", "11", "22"]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    requests = sorted((request for _, request in backend.requests), key=number_of)
    assert [request.sampling.seed for request in requests] == [
        choice_seed(5, 0, i) for i in (0, 1, 2)
    ]
    assert len({request.request_id for request in requests}) == 3
    assert all(request.request_id.startswith(body["id"]) for request in requests)


def test_counts_of_choices_add_up_and_the_prompt_counts_once() -> None:
    body = post(app_over(FakeBackend(numbered)), n=3).json()
    assert body["usage"]["prompt_tokens"] == 7
    assert body["usage"]["completion_tokens"] == 0 + 1 + 2
    assert body["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] == 3
    assert body["s2d"]["rounds"] == 6
    assert body["s2d"]["accepted_by_submodel"] == {"4": 3}
    assert "metrics" not in body


def test_the_joined_stream_of_choices_is_the_whole_reply() -> None:
    options: dict[str, Any] = {"n": 3, "seed": 5}
    whole = post(app_over(FakeBackend(numbered)), **options).json()
    options |= {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(post(app_over(FakeBackend(numbered)), **options))
    texts = {index: told["content"] for index, told in joined(chunks).items()}
    assert texts == {c["index"]: c["message"]["content"] for c in whole["choices"]}
    assert [len(chunk["choices"]) for chunk in chunks] == [1] * len(chunks)
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    streamed: dict[str, Any] = {}
    for chunk in chunks:
        streamed |= chunk.get("s2d", {})
    assert streamed == whole["s2d"]


def test_choices_of_a_stream_interleave_as_they_arrive() -> None:
    chunks = events(post(app_over(FakeBackend(numbered)), n=2, stream=True))
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    opened, written, ended = order[:2], order[2:6], order[6:]
    assert (opened, written, ended) == ([0, 1], [0, 1, 0, 1], [0, 1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "failure", [Refused(503, "full"), RequestError("no", "messages"), ValueError("secret")]
)
def test_a_choice_that_fails_before_the_first_text_fails_all(failure: Any, stream: bool) -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        return [failure] if number_of(request) == 2 else [Started(7), HANG]

    backend = FakeBackend(script)
    response = post(app_over(backend), n=3, stream=stream)
    assert response.status_code == getattr(failure, "status", 500)
    assert backend.num_closed == 3


def test_a_choice_that_fails_in_a_stream_ends_it_and_the_others() -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        return [Started(7), Delta("a"), Refused(503, "gone") if number_of(request) else HANG]

    backend = FakeBackend(script)
    response = post(app_over(backend), n=3, stream=True)
    assert response.status_code == 200
    assert events(response)[-1]["error"]["message"] == "gone"
    assert "[DONE]" not in response.text
    assert backend.num_closed == 3


def test_a_choice_that_ends_early_waits_for_the_others() -> None:
    def script(request: GenerateRequest) -> Sequence[Step]:
        texts = [Delta("x")] * 50 if number_of(request) else []
        return [Started(7), *texts, FINISHED]

    body = post(app_over(FakeBackend(script)), n=2).json()
    assert [c["message"]["content"] for c in body["choices"]] == ["", "x" * 50]


# Calls of functions


def test_a_call_in_the_text_is_a_tool_call() -> None:
    app = app_over(writing("Let me ", "see.\n", MARKED[:15], MARKED[15:], "\n", MARKED))
    (choice,) = post(app, tools=TOOLS).json()["choices"]
    message = choice["message"]
    assert (message["content"], choice["finish_reason"]) == ("Let me see.", "tool_calls")
    functions = [call["function"] for call in message["tool_calls"]]
    assert functions == [{"name": "add", "arguments": ADD}] * 2
    first, second = (call["id"] for call in message["tool_calls"])
    assert first != second
    (told,) = joined(events(post(app, tools=TOOLS, stream=True))).values()
    assert (told["content"], told["finish_reason"]) == ("Let me see.", "tool_calls")
    assert [call["arguments"] for call in told["calls"]] == [ADD, ADD]


def test_a_text_without_a_call_is_content() -> None:
    (choice,) = post(app_over(writing("a <b>")), tools=TOOLS).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": "a <b>"}
    assert choice["finish_reason"] == "stop"


def test_without_tools_a_call_is_text() -> None:
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        (choice,) = post(app_over(writing(MARKED)), **fields).json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (MARKED, "stop")


def test_a_call_alone_has_no_content() -> None:
    (choice,) = post(app_over(writing(MARKED)), tools=TOOLS).json()["choices"]
    assert choice["message"]["content"] is None


NAMED = {"type": "function", "function": {"name": "add"}}
AS_CALL = json.dumps({"name": "add", "arguments": {"a": 1}})


@pytest.mark.parametrize(
    ("choice", "parts"),
    [(NAMED, [ADD[:3], ADD[3:]]), ("required", [AS_CALL[:9], AS_CALL[9:]])],
)
def test_a_forced_call_is_a_tool_call(choice: Any, parts: list[str]) -> None:
    app = app_over(writing(*parts))
    (found,) = post(app, tools=TOOLS, tool_choice=choice).json()["choices"]
    assert found["message"]["content"] is None
    (called,) = found["message"]["tool_calls"]
    assert (called["type"], called["function"]) == ("function", {"name": "add", "arguments": ADD})
    assert found["finish_reason"] == "tool_calls"
    (told,) = joined(events(post(app, tools=TOOLS, tool_choice=choice, stream=True))).values()
    (streamed,) = told["calls"]
    assert (streamed["name"], streamed["arguments"]) == ("add", ADD)
    assert told["finish_reason"] == "tool_calls"


def test_a_call_that_was_cut_off_is_not_called_finished() -> None:
    length = FinishReason.LENGTH
    (choice,) = post(
        app_over(writing(ADD[:3], reason=length)), tools=TOOLS, tool_choice=NAMED
    ).json()["choices"]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == ADD[:3]
    assert choice["finish_reason"] == "length"
    (choice,) = post(app_over(writing(MARKED[:20], reason=length)), tools=TOOLS).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": MARKED[:20]}
    assert choice["finish_reason"] == "length"


def test_tools_and_history_of_calls_reach_the_target() -> None:
    backend = writing("4")
    (choice,) = post(app_over(writing(MARKED)), tools=TOOLS).json()["choices"]
    called = choice["message"]["tool_calls"][0]
    answer = {"role": "tool", "tool_call_id": called["id"], "content": "4"}
    turns = [*chat_body()["messages"], choice["message"], answer]
    assert post(app_over(backend), messages=turns, tools=TOOLS).status_code == 200
    prompt = backend.requests[0][1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1]["tool_calls"] == [called]
    assert prompt.messages[2] == answer
    assert prompt.tools == tuple(TOOLS)


# Log-probabilities


def token(number: int, text: bytes, *others: bytes, ends: bool = False) -> TokenTrace:
    alternatives = tuple(TokenLogprob(i, told, -float(i)) for i, told in enumerate(others))
    told = TokenLogprob(number, text, -0.5)
    shown = "" if ends else text.decode(errors="ignore")
    return TokenTrace(number, shown, None, None, 1, None, told, alternatives, ends)


TOLD: list[Step] = [
    Started(7),
    Delta("a", (token(1, b"a", b"a", b"b"),)),
    Delta("", (token(2, b"\xc3", b"\xc3", b"\xc4"),)),
    Delta("é", (token(3, b"\xa9"),)),
    Delta("", (token(0, b"<end>", ends=True),)),
    FINISHED,
]


def entry(text: str, raw: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(raw)}


CHAT_LOGPROBS = [
    entry("a", b"a", -0.5) | {"top_logprobs": [entry("a", b"a", 0.0), entry("b", b"b", -1.0)]},
    entry("�", b"\xc3", -0.5)
    | {"top_logprobs": [entry("�", b"\xc3", 0.0), entry("�", b"\xc4", -1.0)]},
    entry("�", b"\xa9", -0.5) | {"top_logprobs": []},
]


def test_log_probabilities_of_a_chat_are_those_of_its_tokens_without_the_end() -> None:
    options: dict[str, Any] = {"logprobs": True, "top_logprobs": 2}
    backend = FakeBackend(TOLD)
    body = post(app_over(backend), **options).json()
    (choice,) = body["choices"]
    assert choice["logprobs"] == {"content": CHAT_LOGPROBS, "refusal": None}
    assert choice["message"]["content"] == "aé"
    assert "tokens" not in body["s2d"]
    chunks = events(post(app_over(backend), stream=True, **options))
    (told,) = joined(chunks).values()
    assert (told["content"], told["logprobs"]) == ("aé", CHAT_LOGPROBS)
    assert not any("tokens" in chunk.get("s2d", {}) for chunk in chunks)


def test_log_probabilities_beside_a_call_are_kept() -> None:
    tokens = [Delta(char, (token(1, char.encode()),)) for char in MARKED]
    backend = FakeBackend([Started(7), *tokens, FINISHED])
    for stream in (False, True):
        response = post(app_over(backend), tools=TOOLS, logprobs=True, stream=stream)
        if stream:
            (found,) = joined(events(response)).values()
            told = found["logprobs"]
        else:
            told = response.json()["choices"][0]["logprobs"]["content"]
        assert "".join(entry["token"] for entry in told) == MARKED


def test_a_trace_beside_log_probabilities_tells_both() -> None:
    body = post(app_over(FakeBackend(TOLD)), logprobs=True, s2d={"trace": True}).json()
    assert [told["token_id"] for told in body["s2d"]["tokens"]] == [1, 2, 3, 0]
    assert len(body["choices"][0]["logprobs"]["content"]) == 3


# Completions


def complete(backend: FakeBackend, **fields: Any) -> httpx.Response:
    return call(app_over(backend), "POST", COMPLETIONS, json=text_body(**fields))


def test_a_completion_continues_its_prompt() -> None:
    backend = FakeBackend()
    response = complete(backend, prompt="Once", seed=5)
    body = response.json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["choices"] == [
        {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}
    ]
    assert body["usage"]["total_tokens"] == 11
    assert body["s2d"]["seed"] == 5
    assert body["metrics"]["speculative_decoding"]["num_spec_steps"] == 2
    assert response.headers["x-s2d-seed"] == "5"
    assert backend.requests[0][1].prompt == TextPrompt("Once")


def test_choices_of_prompts_are_numbered_prompt_by_prompt() -> None:
    backend = FakeBackend(numbered)
    body = complete(backend, prompt=["a", "b"], n=2).json()
    assert [(c["index"], c["text"]) for c in body["choices"]] == [
        (0, "00"), (1, "11"), (2, "22"), (3, "33"),
    ]  # fmt: skip
    by_number = {number_of(request): request.prompt for _, request in backend.requests}
    texts = [TextPrompt(text) for text in "aabb"]
    assert [by_number[number] for number in range(4)] == texts
    assert body["usage"]["prompt_tokens"] == 14


def test_the_joined_stream_of_a_completion_is_the_whole() -> None:
    options: dict[str, Any] = {"prompt": ["a", "b"], "n": 2, "seed": 1}
    whole = complete(FakeBackend(numbered), **options).json()
    options |= {"stream": True, "stream_options": {"include_usage": True}}
    response = complete(FakeBackend(numbered), **options)
    assert response.text.endswith("data: [DONE]\n\n")
    *chunks, last = events(response)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    texts: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert texts == {choice["index"]: choice["text"] for choice in whole["choices"]}
    assert last["usage"] == whole["usage"]


def test_log_probabilities_of_a_completion_are_four_lists_side_by_side() -> None:
    expected = {
        "tokens": ["a", "�", "�"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"a": 0.0, "b": -1.0}, {"�": 0.0}, {"�": -0.5}],
        "text_offset": [0, 1, 2],
    }
    (choice,) = complete(FakeBackend(TOLD), logprobs=2).json()["choices"]
    assert (choice["text"], choice["logprobs"]) == ("aé", expected)
    chunks = events(complete(FakeBackend(TOLD), logprobs=2, stream=True))
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    for key, values in expected.items():
        assert [value for part in told if part for value in part[key]] == values


# Fields without effect, and smaller routes


def test_fields_without_effect_are_named_in_a_header() -> None:
    for stream in (False, True):
        response = post(app_over(FakeBackend()), user="u", store=True, stream=stream)
        assert response.headers["x-s2d-ignored"] == "user, store"
    assert "x-s2d-ignored" not in post(app_over(FakeBackend())).headers


def test_prompts_and_conversations_are_tokenised() -> None:
    backend = FakeBackend()
    app = app_over(backend)
    body = {"model": "tiny", "prompt": "hi", "return_token_strs": True}
    assert call(app, "POST", "/tokenize", json=body).json() == {
        "count": 2,
        "max_model_len": 64,
        "tokens": [104, 105],
        "token_strs": ["h", "i"],
    }
    chat = {"model": "tiny", "messages": chat_body()["messages"], "tools": TOOLS}
    assert call(app, "POST", "/tokenize", json=chat).json()["token_strs"] is None
    assert backend.prompts == [
        TextPrompt("hi"),
        ChatPrompt(tuple(chat_body()["messages"]), tuple(TOOLS)),
    ]


def test_ids_are_decoded_or_refused_by_the_target() -> None:
    app = app_over(FakeBackend())
    body: dict[str, Any] = {"model": "tiny", "tokens": [104, 105]}
    assert call(app, "POST", "/detokenize", json=body).json() == {"prompt": "hi"}
    refused = call(app, "POST", "/detokenize", json=body | {"tokens": [0]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tokens")


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", COMPLETIONS])
def test_an_unknown_model_is_404_on_every_route(path: str) -> None:
    more = {"/tokenize": {"prompt": "a"}, "/detokenize": {"tokens": []}}.get(path, {"prompt": "a"})
    response = call(app_over(FakeBackend()), "POST", path, json={"model": "gpt-5"} | more)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_the_version_and_the_metrics_are_told() -> None:
    app = app_over(FakeBackend())
    assert call(app, "GET", "/version").json() == {"version": __version__}
    metrics = call(app, "GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "rounds 3\n" in metrics.text


# Counts


def test_rounds_without_a_proposal_are_no_speculative_steps() -> None:
    assert metrics_body(Usage(7, rounds_by_length=(RoundCount(0, 0, 9),)), 4) is None
    counted = (RoundCount(0, 0, 9), RoundCount(3, 3, 2), RoundCount(3, 1, 1), RoundCount(1, 0, 1))
    metrics = metrics_body(Usage(7, rounds_by_length=counted), 4)
    assert metrics is not None
    told = metrics["speculative_decoding"]
    assert told["acceptance_histogram"] == [1, 1, 0, 2, 0]
    assert told["acceptance_histogram_by_draft_length"] == {"1": [1, 0], "3": [0, 1, 0, 2]}
    assert (told["num_spec_steps"], told["num_draft_tokens"]) == (4, 10)
    assert told["num_accepted_draft_tokens"] == 7
    assert told["mean_acceptance_length"] == 1 + 7 / 4
    assert told["draft_acceptance_rate"] == 0.7


def test_the_counts_of_a_single_choice_are_its_own() -> None:
    assert total([FINISHED.usage], 1) == FINISHED.usage
