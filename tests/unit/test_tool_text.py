"""Functions reach a model by its chat template, or as plain text where that knows none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from s2d_ray.errors import RequestError
from s2d_ray.models.text import Text
from s2d_ray.models.tool_text import as_plain_text, as_templates_expect
from s2d_ray.serve.openai.toolcalls import AutoReader, Call
from tests.tiny import tiny_tokenizer

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "1 + 1?"}
CALLED: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "2"}

BLIND = (
    "{% for m in messages %}<|start|>{{ m['role'] + '\n' + m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
KNOWING = (
    "{% if tools %}<|start|>tools\n{% for t in tools %}{{ t | tojson }}{% endfor %}<|end|>\n"
    "{% endif %}{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for c in m['tool_calls'] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]"
    "{% endfor %}<|end|>\n{% endfor %}"
)
DEAF_TO_ANSWERS = KNOWING.replace("{{ m['content'] }}", "{{ m['content'] if m.role == 'user' }}")
STRICT = "{{ raise_exception('only user and assistant') if messages[2] }}" + KNOWING


def text_with(template: str, folder: Path, tokenizer: Tokenizer | None = None) -> Text:
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer or tiny_tokenizer(), eos_token="<|end|>"
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return Text(folder)


def rendered(text: Text, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    return text.tokenizer.decode(text.encode_chat(messages, tools), skip_special_tokens=False)


@pytest.mark.parametrize(
    ("template", "knows"),
    [(KNOWING, True), (BLIND, False), (DEAF_TO_ANSWERS, False), (STRICT, False)],
)
def test_a_template_knows_functions_if_it_shows_them_with_calls_and_answers(
    template: str, knows: bool, tmp_path: Path
) -> None:
    assert text_with(template, tmp_path).knows_tools is knows


def test_a_template_that_knows_functions_gets_them_as_they_are(tmp_path: Path) -> None:
    shown = rendered(text_with(KNOWING, tmp_path), [USER, CALLED, ANSWERED], [TOOL])
    assert shown == (
        f"<|start|>tools\n{json.dumps(TOOL)}<|end|>\n<|start|>user\n1 + 1?<|end|>\n"
        '<|start|>assistant\n[add {"a": 1}]<|end|>\n<|start|>tool\n2<|end|>\n'
    )


def test_a_template_that_knows_none_gets_them_as_plain_text(tmp_path: Path) -> None:
    text = text_with(BLIND, tmp_path)
    shown = rendered(text, [SYSTEM, USER, CALLED, ANSWERED, ANSWERED, USER], [TOOL])
    assert shown.startswith("<|start|>system\nbe brief\n\n# Tools")
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in shown
    answer = "<tool_response>\n2\n</tool_response>"
    assert shown.endswith(
        "<|end|>\n<|start|>user\n1 + 1?<|end|>\n<|start|>assistant\n<tool_call>\n"
        '{"name": "add", "arguments": {"a": 1}}\n</tool_call><|end|>\n'
        f"<|start|>user\n{answer}\n{answer}<|end|>\n<|start|>user\n1 + 1?<|end|>\n"
        "<|start|>assistant\n"
    )


def test_history_of_calls_is_shown_without_tools_too(tmp_path: Path) -> None:
    shown = rendered(text_with(BLIND, tmp_path), [USER, CALLED, ANSWERED], [])
    assert "<tool_call>" in shown
    assert "<tool_response>" in shown
    assert "<tools>" not in shown


def test_a_chat_without_functions_is_left_as_it_is(tmp_path: Path) -> None:
    shown = rendered(text_with(BLIND, tmp_path), [USER], [])
    assert shown == "<|start|>user\n1 + 1?<|end|>\n<|start|>assistant\n"


def test_the_introduction_is_a_system_message_of_its_own_where_there_is_none() -> None:
    first, *others = as_plain_text([USER], [TOOL])
    assert (first["role"], others) == ("system", [USER])


def test_a_template_without_system_messages_has_functions_introduced_by_the_first_turn(
    tmp_path: Path,
) -> None:
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    text = text_with(refusal + BLIND, tmp_path)
    shown = rendered(text, [USER, CALLED, ANSWERED], [TOOL])
    assert shown.startswith("<|start|>user\n# Tools")
    assert "</tool_call>\n\n1 + 1?<|end|>" in shown


def test_content_beside_calls_is_kept() -> None:
    (turn,) = as_plain_text([CALLED | {"content": "Let me see."}], [])
    assert turn["content"].startswith("Let me see.\n<tool_call>\n")


def test_a_call_shown_as_text_is_parsed_as_the_same_call() -> None:
    (turn,) = as_plain_text([CALLED], [])
    assert AutoReader(frozenset(["add"])).push(turn["content"]) == [Call("add", '{"a": 1}')]


@pytest.mark.parametrize("wrong", ["", "{", "[1]", "3", "[" * 100_000])
def test_arguments_that_are_no_object_stay_text(wrong: str) -> None:
    call = CALL | {"function": {"name": "add", "arguments": wrong}}
    (turn,) = as_templates_expect([CALLED | {"tool_calls": [call]}])
    assert turn["tool_calls"] == [call]
    assert as_plain_text([CALLED | {"tool_calls": [call]}], [])


def test_a_template_that_cannot_take_the_messages_refuses_the_request(tmp_path: Path) -> None:
    text = text_with("{{ messages[0]['content'] + 3 }}", tmp_path)
    with pytest.raises(RequestError, match="refused by the chat template") as caught:
        text.encode_chat([USER])
    assert caught.value.param == "messages"


def test_the_quickstarts_model_gets_functions_as_plain_text(smollm2: Path) -> None:
    text = Text(smollm2)
    assert not text.knows_tools
    shown = rendered(text, [USER, CALLED, ANSWERED], [TOOL])
    assert shown.startswith("<|im_start|>system\n# Tools")
    assert "<|im_start|>user\n<tool_response>\n2\n</tool_response><|im_end|>" in shown
