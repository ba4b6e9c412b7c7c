"""The sampling features, by name, as fields of `SamplingParams`."""

from __future__ import annotations

import json
from typing import Any

from s2d_ray.core.params import JsonFormat
from tests.tiny import EOS

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": "string", "maxLength": 6},
        "b": {"type": "array", "items": {"type": "integer", "minimum": 10}, "maxItems": 2},
        "c": {"enum": ["on", "off"]},
    },
    "required": ["a", "c"],
    "additionalProperties": False,
}
FEATURES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.2},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": -0.8},
    "repetition": {"repetition_penalty": 1.4},
    "bias": {"logit_bias": ((9, 4.0), (EOS, -5.0), (30, -100.0))},
    "min_tokens": {"min_tokens": 12, "logit_bias": ((EOS, 5.0),)},
    "stop ids": {"stop_token_ids": (20, 21, 22, 23, 24, 25)},
    "ignore_eos": {"ignore_eos": True, "logit_bias": ((EOS, 4.0),)},
    "stop string": {"stop": ("a", "Q", "3", "~"), "min_tokens": 3},
    "logprobs": {"logprobs": 4},
    "json_object": {"format": JsonFormat()},
    "json_schema": {"format": JsonFormat(json.dumps(SCHEMA)), "logprobs": 2},
    "all at once": {
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.01,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": ((9, 2.0),),
        "min_tokens": 5,
        "stop_token_ids": (40,),
        "logprobs": 1,
    },
}
