"""A script that answers as a model would: with text, a call, or JSON where it is held to that.

For clients of others' making: what they send decides what they are told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from s2d_ray.engine.messages import (
    ChatPrompt,
    Delta,
    Finished,
    FinishReason,
    GenerateRequest,
    Started,
    TokenLogprob,
    TokenTrace,
    Usage,
)
from tests.fakes_http import Step

CITY = {"name": "Paris", "people": 2}
ARGUMENTS = {"a": 1, "b": 3}
CALL = {"name": "add", "arguments": ARGUMENTS}


def text_for(request: GenerateRequest) -> str:
    """What the model writes: the number of its choice ends a plain text."""
    held_to = request.sampling.format
    if held_to is not None:
        schema = held_to.schema or ""
        if '"anyOf":[{"type":"object","properties":{"name":{"const":' in schema:
            return json.dumps(CALL)
        return json.dumps(ARGUMENTS if '"a":{' in schema else CITY)
    assert isinstance(request.prompt, ChatPrompt)
    if request.prompt.messages[-1]["role"] == "tool":
        return f"The sum is {request.prompt.messages[-1]['content']}."
    if request.prompt.tools:
        return f"I add.\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
    return f"Hello {request.request_id.rpartition('-')[2]}"


def like_a_model(request: GenerateRequest) -> Sequence[Step]:
    """The text, a token for each character, with log-probabilities if they are asked for."""
    num_told = request.sampling.logprobs
    deltas = []
    for char in text_for(request):
        told = TokenLogprob(ord(char), char.encode(), -0.25)
        others = tuple(TokenLogprob(i, b"?", -1.0 - i) for i in range(num_told or 0))
        trace = TokenTrace(ord(char), char, None, None, 0, None, told, others)
        deltas.append(Delta(char, () if num_told is None else (trace,)))
    usage = Usage(prompt_tokens=7, completion_tokens=len(deltas))
    return [Started(7), *deltas, Finished(FinishReason.STOP, usage)]
