"""The table of request fields: what is honoured, what has no effect, what is refused and why.

The published document has this table, the requests are checked by it, and tests walk it. A field
that could change the text is honoured or refused by name, never ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from s2d_ray.errors import RequestError


class Endpoint(StrEnum):
    """The requests that write text."""

    CHAT = "chat"
    COMPLETIONS = "completions"


class Kind(StrEnum):
    """What becomes of a field."""

    HONOURED = "honoured"
    IGNORED = "accepted without effect"
    REFUSED = "refused"


BOTH = (Endpoint.CHAT, Endpoint.COMPLETIONS)
LONGEST_SHOWN = 128
CHAT = (Endpoint.CHAT,)
COMPLETIONS = (Endpoint.COMPLETIONS,)


@dataclass(frozen=True)
class Rule:
    """One field. text: its meaning, or the reason why it is refused.

    neutral: values of a refused field that mean what its absence means, beside null.
    """

    name: str
    kind: Kind
    endpoints: tuple[Endpoint, ...]
    text: str
    neutral: tuple[Any, ...] = ()


def _honoured() -> Iterator[Rule]:
    both = {
        "model": "name of a target, `auto`, `auto:fast`, `auto:cheap`, or of a split",
        "stream": "server-sent events",
        "stream_options": "`include_usage`: a last chunk with usage",
        "max_tokens": "cap on written tokens; the default is the target's `default_max_tokens`",
        "temperature": "default 1; at 0 the best token is taken",
        "top_p": "only the likeliest tokens of this joint probability",
        "top_k": "only so many likeliest tokens; 0: all",
        "min_p": "only tokens at least so likely, measured by the likeliest",
        "presence_penalty": "off the score of each token that was written",
        "frequency_penalty": "off the score of a token for each time it was written",
        "repetition_penalty": "scores of tokens in prompt and output are divided by it",
        "logit_bias": "addends by token id, the ids as strings",
        "min_tokens": "before so many tokens neither an end token nor a stop string ends the text",
        "stop": "strings that end the text and are no part of it",
        "stop_token_ids": "token ids that end the text",
        "ignore_eos": "the model's own end tokens do not end the text",
        "seed": "drawn if missing, and returned in `s2d.seed` and `x-s2d-seed`",
        "n": "texts for each prompt, of seeds that follow from `seed`",
        "cache_salt": "only requests of the same salt share the cache of common beginnings",
        "s2d": "this project's own fields",
    }
    chat = {
        "messages": "roles `system`, `developer` (= system), `user`, `assistant` (with "
        "`tool_calls`), `tool`; content a string or text parts",
        "max_completion_tokens": "`max_tokens` by its newer name",
        "logprobs": "whether to tell the log-probability of each token",
        "top_logprobs": "so many likeliest alternatives of each token; with `logprobs`",
        "response_format": "`text`, `json_object`, or `json_schema` with a schema that the text "
        "keeps, `strict` or not",
        "tools": "functions that the model may call",
        "tool_choice": "`none`, `auto`, `required`, or one function by name",
    }
    completions = {
        "prompt": "a text, token ids, or up to 64 of either",
        "logprobs": "log-probabilities, with so many alternatives",
    }
    for endpoints, rows in ((BOTH, both), (CHAT, chat), (COMPLETIONS, completions)):
        yield from (Rule(name, Kind.HONOURED, endpoints, text) for name, text in rows.items())


def _ignored() -> Iterator[Rule]:
    both = {
        "user": "names the caller",
        "safety_identifier": "names the caller",
        "metadata": "labels of the caller's",
        "store": "nothing is stored",
        "service_tier": "there is one tier",
        "priority": "there is one queue",
        "prompt_cache_key": "a hint for caching",
        "prompt_cache_retention": "a hint for caching",
        "request_id": "send the header `x-request-id` instead",
    }
    chat = {"parallel_tool_calls": "the model decides how many functions it calls"}
    for endpoints, rows in ((BOTH, both), (CHAT, chat)):
        yield from (Rule(name, Kind.IGNORED, endpoints, text) for name, text in rows.items())


def _refused() -> Iterator[Rule]:
    whole_output = "only the text that follows the prompt is returned"
    grammar = "send `response_format` instead"
    old_tools = "send `tools` and `tool_choice` instead"
    text_only = "the targets read and write text only"
    template = "the checkpoint's own chat template is used, as it stands"
    decoded = "texts are decoded in one way, without special tokens"
    law = "the law that tokens are drawn from cannot be changed so"
    both: dict[str, tuple[str, tuple[Any, ...]]] = {
        "echo": (whole_output, (False,)),
        "logit_processors": ("code of a client is not run", ([],)),
        "logits_processors": ("code of a client is not run", ([],)),
        "use_beam_search": (law, (False,)),
        "length_penalty": (law, (1,)),
        "typical_p": (law, (1,)),
        "bad_words": ("send `logit_bias` instead", ([],)),
        "allowed_token_ids": ("send `logit_bias` instead", ()),
        "guided_json": (grammar, ()),
        "guided_regex": (grammar, ()),
        "guided_choice": (grammar, ()),
        "guided_grammar": (grammar, ()),
        "guided_decoding_backend": (grammar, ()),
        "guided_whitespace_pattern": (grammar, ()),
        "structural_tag": (grammar, ()),
        "structured_outputs": (grammar, ()),
        "skip_special_tokens": (decoded, (True,)),
        "spaces_between_special_tokens": (decoded, (True,)),
        "include_stop_str_in_output": ("stop strings are no part of the text", (False,)),
        "return_token_ids": ("send `s2d.trace` instead", (False,)),
        "return_tokens_as_token_ids": ("send `s2d.trace` instead", (False,)),
        "prompt_logprobs": ("prompts are not scored", ()),
        "truncate_prompt_tokens": ("a prompt is never cut; one that is too long is refused", ()),
        "add_special_tokens": ("the tokenizer adds what the checkpoint says", ()),
        "extra_body": ("send its fields beside the others, as clients do", ({},)),
    }
    chat: dict[str, tuple[str, tuple[Any, ...]]] = {
        "functions": (old_tools, ([],)),
        "function_call": (old_tools, ("none",)),
        "audio": (text_only, ()),
        "modalities": (text_only, (["text"],)),
        "prediction": ("the draft model predicts", ()),
        "reasoning_effort": ("the targets have no levels of reasoning", ()),
        "verbosity": ("the targets have no levels of verbosity", ()),
        "web_search_options": ("there is no web search", ()),
        "include_reasoning": ("reasoning is not told apart from the text", (True,)),
        "chat_template": (template, ()),
        "chat_template_kwargs": (template, ({},)),
        "documents": (template, ([],)),
        "add_generation_prompt": (template, (True,)),
        "continue_final_message": (template, (False,)),
        "best_of": ("send `n` instead", (1,)),
    }
    completions: dict[str, tuple[str, tuple[Any, ...]]] = {
        "suffix": ("text is written at the end only", ("",)),
        "best_of": ("send `n` instead; texts are not ranked", (1,)),
        "prompt_embeds": ("send text or token ids", ()),
        "response_format": ("chat completions have it", ({"type": "text"},)),
    }
    for endpoints, rows in ((BOTH, both), (CHAT, chat), (COMPLETIONS, completions)):
        for name, (reason, neutral) in rows.items():
            yield Rule(name, Kind.REFUSED, endpoints, reason, neutral)


RULES = (*_honoured(), *_ignored(), *_refused())


def rules_of(endpoint: Endpoint, kind: Kind) -> dict[str, Rule]:
    """The fields of one kind at one endpoint, by name."""
    return {rule.name: rule for rule in RULES if rule.kind is kind and endpoint in rule.endpoints}


def sort_extras(endpoint: Endpoint, extras: Mapping[str, Any]) -> tuple[str, ...]:
    """The names among `extras`, fields beside the honoured ones, that were sent without effect.

    Raises RequestError naming the first one that is refused or that nobody knows.
    """
    ignored = rules_of(endpoint, Kind.IGNORED)
    refused = rules_of(endpoint, Kind.REFUSED)
    for name, value in extras.items():
        if name in refused:
            rule = refused[name]
            if value is not None and not any(_same(value, neutral) for neutral in rule.neutral):
                raise RequestError(
                    f"{name}: not supported: {rule.text}", name, "unsupported_parameter"
                )
        elif name not in ignored:
            shown = name[:LONGEST_SHOWN]
            raise RequestError(f"{shown}: unknown field; leave it out", shown, "unknown_parameter")
    return tuple(name for name, value in extras.items() if name in ignored and value is not None)


def _same(value: object, neutral: object) -> bool:
    """Equality as in JSON: true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
