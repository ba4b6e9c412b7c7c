"""What a request body may say, and how it is named when it says too much."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.core.hashing import choice_seed
from s2d_ray.core.params import JsonFormat
from s2d_ray.engine.messages import ChatPrompt, GenerateRequest, Mode, TextPrompt, TokenPrompt
from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.body import MAX_PARTS, parse, parse_request
from s2d_ray.serve.openai.chat import ChatCompletionRequest
from s2d_ray.serve.openai.completions import CompletionRequest
from s2d_ray.serve.openai.fields import RULES, Endpoint, Kind, rules_of
from s2d_ray.serve.openai.formats import MAX_SCHEMA_CHARS, MAX_SCHEMA_DEPTH, MAX_TOOLS
from s2d_ray.serve.openai.sampling import SpeculationOptions
from s2d_ray.serve.openai.tokens import DetokenizeRequest, TokenizeRequest
from tests.fakes_http import PLAN, chat_body, text_body

BODIES = {Endpoint.CHAT: chat_body, Endpoint.COMPLETIONS: text_body}
MODELS: dict[Endpoint, type[ChatCompletionRequest] | type[CompletionRequest]] = {
    Endpoint.CHAT: ChatCompletionRequest,
    Endpoint.COMPLETIONS: CompletionRequest,
}


def sent(endpoint: Endpoint, raw: bytes) -> tuple[tuple[GenerateRequest, ...], tuple[str, ...]]:
    body, ignored = parse_request(MODELS[endpoint], endpoint, raw)
    return body.requests("id", PLAN), ignored


def checked_all(endpoint: Endpoint = Endpoint.CHAT, **fields: Any) -> tuple[GenerateRequest, ...]:
    return sent(endpoint, json.dumps(BODIES[endpoint](**fields)).encode())[0]


def checked(**fields: Any) -> GenerateRequest:
    (request,) = checked_all(**fields)
    return request


def messages_of(request: GenerateRequest) -> tuple[dict[str, Any], ...]:
    assert isinstance(request.prompt, ChatPrompt)
    return request.prompt.messages


def refused(body: bytes, endpoint: Endpoint = Endpoint.CHAT) -> RequestError:
    with pytest.raises(RequestError) as caught:
        sent(endpoint, body)
    assert "\n" not in caught.value.message
    return caught.value


def schema_format(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema} | more}


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | function}


def named(name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def nested(depth: int) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for _ in range(depth - 1):
        tree = {"items": tree}
    return tree


JSON_OBJECT = {"type": "json_object"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "4"}
USER = {"role": "user", "content": "hi"}

WRONG = [
    ("model", {"model": 3}),
    ("model", {"model": ""}),
    ("model", {"model": None}),
    ("messages", {"messages": []}),
    ("messages", {"messages": "hi"}),
    ("messages", {"messages": None}),
    ("messages", {"messages": [USER] * (MAX_PARTS + 1)}),
    ("messages.0", {"messages": ["hi"]}),
    ("messages.1.role", {"messages": [USER, {"role": "critic", "content": "x"}]}),
    ("messages.1.role", {"messages": [USER, {"content": "x"}]}),
    ("messages.1.role", {"messages": [USER, {"role": ["user"], "content": "x"}]}),
    ("messages.1.tool_call_id", {"messages": [USER, {"role": "tool", "content": "x"}]}),
    ("messages.0.content", {"messages": [{"role": "tool", "tool_call_id": "c", "content": None}]}),
    ("messages.0.content", {"messages": [{"role": "assistant", "content": None}]}),
    ("messages.0.content", {"messages": [{"role": "assistant", "tool_calls": []}]}),
    ("messages.0.tool_call_id", {"messages": [USER | {"tool_call_id": "c"}]}),
    (
        "messages.0.tool_calls.0.type",
        {"messages": [CALLED | {"tool_calls": [CALL | {"type": "custom"}]}]},
    ),
    (
        "messages.0.tool_calls.0.function.arguments",
        {"messages": [CALLED | {"tool_calls": [CALL | {"function": {"name": "f"}}]}]},
    ),
    ("messages.0.content", {"messages": [{"role": "user"}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": None}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": 5}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": []}]}),
    (
        "messages.0.content.0.type",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
    ),
    (
        "messages.0.content.0.text",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
    ),
    ("messages.0.name", {"messages": [USER | {"name": "bob"}]}),
    ("messages.0.tool_calls", {"messages": [USER | {"tool_calls": []}]}),
    ("stream", {"stream": "yes"}),
    ("stream", {"stream": 1}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("stream_options.include_usage", {"stream_options": {"include_usage": 1}, "stream": True}),
    ("stream_options.extra", {"stream_options": {"extra": 1}, "stream": True}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("max_tokens", {"max_tokens": 10**9}),
    ("max_tokens", {"max_tokens": 10**400}),
    ("max_tokens", {"max_tokens": "3"}),
    ("max_tokens", {"max_tokens": 3.5}),
    ("max_tokens", {"max_tokens": True}),
    ("max_tokens", {"max_tokens": 3, "max_completion_tokens": 4}),
    ("max_completion_tokens", {"max_completion_tokens": -5}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 2.01}),
    ("temperature", {"temperature": "1"}),
    ("temperature", {"temperature": True}),
    ("temperature", {"temperature": float("nan")}),
    ("temperature", {"temperature": float("inf")}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.1}),
    ("top_p", {"top_p": float("-inf")}),
    ("top_k", {"top_k": -1}),
    ("top_k", {"top_k": 2**31 + 1}),
    ("seed", {"seed": -1}),
    ("seed", {"seed": 2**53}),
    ("seed", {"seed": 1.5}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": 4}),
    ("stop", {"stop": ["a"] * 5}),
    ("stop.1", {"stop": ["a", ""]}),
    ("stop.0", {"stop": ["a" * 257]}),
    ("s2d", {"s2d": "force"}),
    ("s2d.mode", {"s2d": {"mode": "always"}}),
    ("s2d.exit_thresholds", {"s2d": {"exit_thresholds": 0.5}}),
    ("s2d.exit_thresholds.1", {"s2d": {"exit_thresholds": [0.5, 1.5]}}),
    ("s2d.stop_threshold", {"s2d": {"stop_threshold": -1}}),
    ("s2d.max_proposal", {"s2d": {"max_proposal": 33}}),
    ("s2d.max_proposal", {"s2d": {"max_proposal": -1}}),
    ("s2d.trace", {"s2d": {"trace": "true"}}),
    ("s2d.max_propsal", {"s2d": {"max_propsal": 3}}),
    ("n", {"n": 0}),
    ("n", {"n": 17}),
    ("n", {"n": True}),
    ("s2d.trace", {"n": 2, "s2d": {"trace": True}}),
    ("min_p", {"min_p": 1.1}),
    ("presence_penalty", {"presence_penalty": 2.1}),
    ("frequency_penalty", {"frequency_penalty": -2.1}),
    ("repetition_penalty", {"repetition_penalty": 0}),
    ("repetition_penalty", {"repetition_penalty": 5e-324}),  # scores would not be finite
    ("repetition_penalty", {"repetition_penalty": 2.1}),
    ("logit_bias", {"logit_bias": []}),
    ("logit_bias", {"logit_bias": {str(key): 1 for key in range(1_025)}}),
    ("logit_bias.5", {"logit_bias": {"5": 101}}),
    ("logit_bias.-5", {"logit_bias": {"-5": 1}}),
    ("logit_bias.05", {"logit_bias": {"05": 1}}),
    ("logit_bias.٥", {"logit_bias": {"٥": 1}}),
    ("min_tokens", {"min_tokens": -1}),
    ("min_tokens", {"min_tokens": 5, "max_tokens": 4}),
    ("min_tokens", {"min_tokens": 5, "max_completion_tokens": 4}),
    ("stop_token_ids", {"stop_token_ids": list(range(65))}),
    ("stop_token_ids.0", {"stop_token_ids": [-1]}),
    ("stop_token_ids.0", {"stop_token_ids": [2**31]}),
    ("ignore_eos", {"ignore_eos": 1}),
    ("logprobs", {"logprobs": 3}),
    ("top_logprobs", {"top_logprobs": 3}),
    ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("response_format.type", {"response_format": {"type": "xml"}}),
    ("response_format.type", {"response_format": {}}),
    ("response_format", {"response_format": "json"}),
    ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
    ("response_format.json_schema.name", {"response_format": schema_format({}, name="a b")}),
    ("response_format.json_schema.schema", {"response_format": schema_format([])}),
    (
        "response_format.json_schema.schema",
        {"response_format": schema_format({"title": "x" * MAX_SCHEMA_CHARS})},
    ),
    (
        "response_format.json_schema.schema",
        {"response_format": schema_format(nested(MAX_SCHEMA_DEPTH + 1))},
    ),
    (
        "response_format.json_schema.schema",
        {"response_format": schema_format({"minimum": float("nan")})},
    ),
    ("ignore_eos", {"response_format": JSON_OBJECT, "ignore_eos": True}),
    ("min_tokens", {"response_format": JSON_OBJECT, "min_tokens": 2}),
    ("response_format", {"response_format": JSON_OBJECT, "tools": [tool()]}),
    (
        "response_format",
        {"response_format": JSON_OBJECT, "tools": [tool()], "tool_choice": "required"},
    ),
    (
        "response_format",
        {"response_format": JSON_OBJECT, "tools": [tool()], "tool_choice": named()},
    ),
    ("tools", {"tools": [tool(f"f{number}") for number in range(MAX_TOOLS + 1)]}),
    ("tools.0.type", {"tools": [tool() | {"type": "custom"}]}),
    ("tools.0.function.name", {"tools": [tool("a b")]}),
    ("tools.0.function.strct", {"tools": [tool(strct=True)]}),
    ("tools.1.function.name", {"tools": [tool(), tool()]}),
    ("tools.0.function.parameters", {"tools": [tool(parameters=nested(MAX_SCHEMA_DEPTH + 1))]}),
    ("tools.0.function.parameters.type", {"tools": [tool(parameters={"type": "string"})]}),
    ("tool_choice", {"tools": [tool()], "tool_choice": "any"}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tool_choice": "required", "tools": []}),
    ("tool_choice", {"tool_choice": named()}),
    ("tool_choice.function.name", {"tool_choice": named("g"), "tools": [tool()]}),
    ("tool_choice.type", {"tool_choice": {"type": "allowed_tools"}, "tools": [tool()]}),
    ("ignore_eos", {"tools": [tool()], "tool_choice": "required", "ignore_eos": True}),
]


@pytest.mark.parametrize(
    ("param", "fields"), WRONG, ids=[f"{p}-{i}" for i, (p, _) in enumerate(WRONG)]
)
def test_a_wrong_field_is_refused_by_its_dotted_path(param: str, fields: dict[str, Any]) -> None:
    error = refused(json.dumps(chat_body(**fields)).encode())
    assert error.status == 400
    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": "tiny",}', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000],
    ids=["empty", "cut", "comma", "not-utf8", "half-a-character", "deep"],
)
def test_malformed_json_is_refused_as_such(body: bytes) -> None:
    error = refused(body)
    assert error.code == "invalid_json"
    assert error.param is None


@pytest.mark.parametrize("body", [b"null", b"[]", b'"hi"', b"3"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    assert refused(body).param is None


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_number_that_is_not_finite_is_refused_as_such(number: bytes) -> None:
    body = json.dumps(chat_body(temperature=0)).encode().replace(b": 0}", b": " + number + b"}")
    assert "finite" in refused(body).message


def test_a_missing_field_is_named() -> None:
    assert refused(b'{"messages": []}').param == "model"
    assert refused(b'{"model": "tiny"}').param == "messages"


def test_an_unknown_field_is_told_apart_from_a_wrong_one() -> None:
    assert refused(json.dumps(chat_body(toolz=[])).encode()).code == "unknown_parameter"
    assert refused(json.dumps(chat_body(n=0)).encode()).code != "unknown_parameter"
    inner = refused(json.dumps(chat_body(s2d={"x": 1})).encode())
    assert (inner.param, inner.code) == ("s2d.x", "unknown_parameter")


def test_an_endless_name_is_not_sent_back() -> None:
    assert len(refused(json.dumps(chat_body(**{"x" * 10_000: 1})).encode()).message) < 1_000
    assert len(refused(json.dumps(chat_body(s2d={"x" * 10_000: 1})).encode()).message) < 1_000


# The table of fields

IGNORED, REFUSED = (
    [
        pytest.param(endpoint, rule.name, id=f"{endpoint}-{rule.name}")
        for endpoint in Endpoint
        for rule in rules_of(endpoint, kind).values()
    ]
    for kind in (Kind.IGNORED, Kind.REFUSED)
)
VALUES: list[Any] = ["x", 3, -0.5, True, False, {"a": "b"}, ["a"], {}, []]


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_the_honoured_fields_are_those_of_the_model(endpoint: Endpoint) -> None:
    honoured = rules_of(endpoint, Kind.HONOURED)
    assert set(MODELS[endpoint].model_fields) == set(honoured)


def test_a_field_has_one_rule_at_each_endpoint() -> None:
    places = [(endpoint, rule.name) for rule in RULES for endpoint in rule.endpoints]
    assert len(places) == len(set(places))


@pytest.mark.parametrize(("endpoint", "name"), IGNORED)
def test_a_field_without_effect_changes_nothing_and_is_named(endpoint: Endpoint, name: str) -> None:
    plain = checked_all(endpoint, seed=1)
    for value in VALUES:
        body = BODIES[endpoint](seed=1, **{name: value})
        assert sent(endpoint, json.dumps(body).encode()) == (plain, (name,))
    assert sent(endpoint, json.dumps(BODIES[endpoint](seed=1, **{name: None})).encode())[1] == ()


@pytest.mark.parametrize(("endpoint", "name"), REFUSED)
def test_a_field_that_would_change_the_text_is_refused_by_name(
    endpoint: Endpoint, name: str
) -> None:
    rule = rules_of(endpoint, Kind.REFUSED)[name]
    plain = checked_all(endpoint, seed=1)
    for value in VALUES:
        if value not in rule.neutral:
            error = refused(json.dumps(BODIES[endpoint](**{name: value})).encode(), endpoint)
            assert (error.param, error.code) == (name, "unsupported_parameter")
            assert rule.text in error.message
    for neutral in (None, *rule.neutral):
        assert checked_all(endpoint, seed=1, **{name: neutral}) == plain


def test_one_is_not_true_where_a_value_is_neutral() -> None:
    for field in ({"best_of": True}, {"echo": 0}):
        error = refused(json.dumps(text_body(**field)).encode(), Endpoint.COMPLETIONS)
        assert error.code == "unsupported_parameter"


# What arrives


def test_fields_arrive_in_the_generate_request() -> None:
    request = checked(
        max_completion_tokens=9,
        temperature=0,
        top_p=0.5,
        top_k=2**31,
        seed=2**53 - 1,
        stop=["a", "b"],
        s2d={"mode": "force", "trace": True},
    )
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (9, 0.0, 0.5)
    assert (sampling.top_k, sampling.seed, sampling.stop) == (2**31, 2**53 - 1, ("a", "b"))
    assert (request.request_id, request.mode, request.trace) == ("id-0", Mode.FORCE, True)
    assert request.prompt == ChatPrompt(({"role": "user", "content": "hi"},))


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_controls_of_the_drawing_arrive(endpoint: Endpoint) -> None:
    given: dict[str, Any] = {
        "min_p": 0.25,
        "presence_penalty": -2,
        "frequency_penalty": 2.0,
        "repetition_penalty": 0.5,
        "min_tokens": 3,
        "ignore_eos": True,
    }
    (request,) = checked_all(
        endpoint, **given, logit_bias={"7": -100, "0": 0.5}, stop_token_ids=[5, 3, 5], seed=1
    )
    (plain,) = checked_all(endpoint, seed=1)
    assert request.sampling == replace(
        plain.sampling, **given, logit_bias=((0, 0.5), (7, -100.0)), stop_token_ids=(5, 3)
    )


@pytest.mark.parametrize(
    ("endpoint", "fields", "logprobs"),
    [
        (Endpoint.CHAT, {"logprobs": True}, 0),
        (Endpoint.CHAT, {"logprobs": True, "top_logprobs": 20}, 20),
        (Endpoint.CHAT, {"logprobs": False}, None),
        (Endpoint.COMPLETIONS, {"logprobs": 0}, 0),
        (Endpoint.COMPLETIONS, {"logprobs": 5}, 5),
        (Endpoint.COMPLETIONS, {}, None),
    ],
)
def test_logprobs_arrive(endpoint: Endpoint, fields: dict[str, Any], logprobs: int | None) -> None:
    (request,) = checked_all(endpoint, **fields)
    assert request.sampling.logprobs == logprobs


def test_each_choice_of_each_prompt_has_the_seed_of_the_published_hash() -> None:
    requests = checked_all(Endpoint.COMPLETIONS, prompt=["a", "b"], n=3, seed=5)
    assert [request.request_id for request in requests] == [f"id-{index}" for index in range(6)]
    assert [request.prompt for request in requests] == [TextPrompt("a")] * 3 + [TextPrompt("b")] * 3
    seeds = [request.sampling.seed for request in requests]
    assert seeds == [choice_seed(5, j, i) for j in range(2) for i in range(3)]
    assert seeds[0] == 5
    assert len(set(seeds)) == 6


def test_null_and_harmless_fields_change_nothing() -> None:
    optional = [
        "stream stream_options max_tokens max_completion_tokens temperature top_p top_k stop s2d",
        "n logprobs top_logprobs frequency_penalty presence_penalty repetition_penalty min_p",
        "logit_bias min_tokens stop_token_ids ignore_eos response_format tools tool_choice",
    ]
    nulls = dict.fromkeys(" ".join(optional).split())
    harmless = {
        "n": 1,
        "logprobs": False,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1,
        "min_p": 0,
        "logit_bias": {},
        "min_tokens": 0,
        "stop_token_ids": [],
        "ignore_eos": False,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
    }
    inner = dict.fromkeys(SpeculationOptions.model_fields)
    plain = checked(seed=1)
    assert checked(seed=1, **nulls) == plain
    assert checked(seed=1, **harmless) == plain
    assert checked(seed=1, s2d=inner) == plain
    assert checked(seed=1, max_tokens=5, max_completion_tokens=5).sampling.max_tokens == 5


def test_defaults_are_those_of_the_config_and_of_openai() -> None:
    request = checked(seed=None)
    assert request.plan == PLAN
    assert (request.mode, request.trace) == (Mode.AUTO, False)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)
    assert (sampling.max_tokens, sampling.stop) == (None, ())


def test_a_missing_seed_is_drawn_from_53_bits() -> None:
    seeds = {checked().sampling.seed for _ in range(64)}
    assert len(seeds) == 64
    assert max(seeds) >= 2**48
    assert all(0 <= seed < 2**53 for seed in seeds)


@pytest.mark.parametrize(
    ("fields", "plan"),
    [
        ({"exit_thresholds": []}, Plan((), 0.1, 6)),
        ({"exit_thresholds": [1, 0.5, 0.0]}, Plan((1.0, 0.5, 0.0), 0.1, 6)),
        ({"stop_threshold": 0}, Plan((0.25, 0.75), 0.0, 6)),
        ({"max_proposal": 0}, Plan((0.25, 0.75), 0.1, 0)),
    ],
)
def test_s2d_fields_replace_the_default_plan_one_by_one(fields: dict[str, Any], plan: Plan) -> None:
    assert checked(s2d=fields).plan == plan


def test_developer_is_system_and_text_parts_are_paragraphs() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = checked(
        messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}]
    )
    assert messages_of(request) == (
        {"role": "system", "content": "x"},
        {"role": "user", "content": "a\nb"},
    )


# Tools and formats


def test_calls_and_their_answers_arrive_as_history() -> None:
    nulls = dict.fromkeys(["refusal", "annotations", "audio", "function_call"])
    turns = [USER, CALLED | nulls, ANSWERED, ANSWERED | {"name": "f"}]
    assert messages_of(checked(messages=turns)) == (
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        ANSWERED,
        ANSWERED | {"name": "f"},
    )


def test_tools_reach_the_template_unless_none_may_be_called() -> None:
    tools = [tool(description="d", parameters={"type": "object"}, strict=True)]
    for choice in (None, "auto", "required", named()):
        prompt = checked(tools=tools, tool_choice=choice).prompt
        assert isinstance(prompt, ChatPrompt)
        assert prompt.tools == tuple(tools)
    prompt = checked(tools=tools, tool_choice="none", response_format=JSON_OBJECT).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools == ()


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        (JSON_OBJECT, JsonFormat()),
        (schema_format({"type": "object"}), JsonFormat('{"type":"object"}')),
        (
            schema_format({"const": "é"}, strict=False, description="d"),
            JsonFormat('{"const":"é"}'),
        ),
    ],
)
def test_a_response_format_holds_the_text_to_it(response_format: Any, expected: Any) -> None:
    assert checked(response_format=response_format).sampling.format == expected


POINT = {
    "type": "object",
    "properties": {"next": {"$ref": "#/$defs/P"}, "self": {"$ref": "#"}},
    "$defs": {"P": {"type": "integer"}},
}


def format_of(**fields: Any) -> dict[str, Any]:
    wanted = checked(**fields).sampling.format
    assert wanted is not None
    assert wanted.schema is not None
    schema: dict[str, Any] = json.loads(wanted.schema)
    return schema


def test_a_named_function_holds_the_text_to_its_parameters() -> None:
    tools = [tool("f"), tool("g", parameters=POINT), tool("h", parameters={"properties": {}})]
    assert format_of(tools=tools, tool_choice=named("g")) == POINT
    assert format_of(tools=tools, tool_choice=named("f")) == {"type": "object"}
    assert format_of(tools=tools, tool_choice=named("h")) == {"type": "object", "properties": {}}


def test_required_calls_hold_the_text_to_one_of_the_functions() -> None:
    """Checked with a validator: references inside a function's schema must still be found."""
    tools = [tool("f"), tool("g", parameters=POINT)]
    validator = jsonschema.Draft202012Validator(format_of(tools=tools, tool_choice="required"))
    for arguments in ({"next": 3}, {"self": {"self": {"next": 1}}}):
        assert validator.is_valid({"name": "g", "arguments": arguments})
    for wrong in (
        {"name": "g", "arguments": {"next": "3"}},
        {"name": "g", "arguments": {"self": {"self": {"next": "1"}}}},
        {"name": "h", "arguments": {}},
        {"name": "f"},
        {"name": "f", "arguments": []},
        {"name": "f", "arguments": {}, "more": 1},
    ):
        assert not validator.is_valid(wrong)


# Completions


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [TextPrompt("a")]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([1, 2], [TokenPrompt((1, 2))]),
        ([[1, 2], [3]], [TokenPrompt((1, 2)), TokenPrompt((3,))]),
    ],
)
def test_a_prompt_is_text_or_ids_one_or_many(prompt: Any, expected: list[Any]) -> None:
    requests = checked_all(Endpoint.COMPLETIONS, prompt=prompt)
    assert [request.prompt for request in requests] == expected


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("prompt", {"prompt": None}),
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": {"text": "a"}}),
        ("prompt", {"prompt": ["a"] * 65}),
        ("prompt", {"prompt": [[1]] * 65}),
        ("prompt.1", {"prompt": ["a", ""]}),
        ("prompt.1", {"prompt": ["a", 1]}),
        ("prompt.1", {"prompt": [1, "a"]}),
        ("prompt.0", {"prompt": [True]}),
        ("prompt.0", {"prompt": [-1]}),
        ("prompt.0", {"prompt": [[]]}),
        ("prompt.1.0", {"prompt": [[1], ["a"]]}),
        ("n", {"prompt": ["a"] * 5, "n": 13}),
        ("s2d.trace", {"prompt": ["a", "b"], "s2d": {"trace": True}}),
        ("logprobs", {"logprobs": 6}),
        ("logprobs", {"logprobs": True}),
        ("min_tokens", {"min_tokens": 3, "max_tokens": 2}),
        ("messages", {"messages": [USER]}),
    ],
)
def test_a_wrong_completion_is_refused_by_its_dotted_path(
    param: str, fields: dict[str, Any]
) -> None:
    error = refused(json.dumps(text_body(**fields)).encode(), Endpoint.COMPLETIONS)
    assert (error.status, error.param) == (400, param)


# Tokens


def test_a_prompt_or_a_conversation_is_tokenised() -> None:
    def prompt_of(**fields: Any) -> Any:
        return parse(TokenizeRequest, json.dumps({"model": "m"} | fields).encode()).to_prompt()

    assert prompt_of(prompt="a") == TextPrompt("a")
    tools = [tool()]
    assert prompt_of(messages=[USER], tools=tools) == ChatPrompt((USER,), tuple(tools))
    for param, wrong in [
        ("prompt", {}),
        ("prompt", {"prompt": "a", "messages": [USER]}),
        ("tools", {"prompt": "a", "tools": tools}),
        ("tools.1.function.name", {"messages": [USER], "tools": tools * 2}),
        ("messages.0.content", {"messages": [{"role": "assistant"}]}),
        ("add_special_tokens", {"prompt": "a", "add_special_tokens": False}),
        ("x", {"prompt": "a", "x": 1}),
    ]:
        with pytest.raises(RequestError) as caught:
            prompt_of(**wrong)
        assert caught.value.param == param


def test_ids_to_be_decoded_are_checked() -> None:
    assert parse(DetokenizeRequest, b'{"model": "m", "tokens": [1]}').tokens == [1]
    with pytest.raises(RequestError) as caught:
        parse(DetokenizeRequest, b'{"model": "m", "tokens": ["a"]}')
    assert caught.value.param == "tokens.0"
