"""What both generating requests say about drawing tokens, and how it becomes `SamplingParams`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, Tag, WithJsonSchema

from s2d_ray.config import MAX_PROPOSAL, MAX_TREE_WIDTH, Probability
from s2d_ray.core.cascade import Plan
from s2d_ray.core.hashing import SEED_BITS, choice_seed
from s2d_ray.core.params import JsonFormat, SamplingParams
from s2d_ray.engine.messages import GenerateRequest, Mode, Prompt
from s2d_ray.errors import RequestError
from s2d_ray.serve.openai.body import MANY, ONE, Body, Name, Request, one_or_many

MAX_OUTPUT_TOKENS = 2**20
MAX_CHOICES = 16
MAX_TOKEN_ID = 2**31 - 1

Count = Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
TokenKey = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,9})$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
LogitBias = Annotated[
    dict[TokenKey, Bias],
    Field(max_length=1_024),
    # The schema that pydantic makes of the keys' pattern lets other keys pass.
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 1_024,
            "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,9})$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]
Penalty = Annotated[float, Field(ge=-2, le=2)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[
    Annotated[StopString, Tag(ONE)] | Annotated[list[StopString], Field(max_length=4), Tag(MANY)],
    one_or_many,
]


class StreamOptions(Body):
    """What a stream carries besides text."""

    include_usage: bool | None = Field(None, description="A last chunk tells counts of tokens.")


class SpeculationOptions(Body):
    """The body field `s2d`: speculation of this request. Nothing in it changes the text."""

    mode: Mode | None = Field(None, description="By default auto.")
    exit_thresholds: Annotated[list[Probability], Field(max_length=64)] | None = Field(
        None,
        description="One per sub-model but the deepest; below it a guess goes deeper, at 1 always.",
    )
    stop_threshold: Probability | None = Field(
        None, description="The draft's proposal ends once its confidences multiply to less."
    )
    max_proposal: Annotated[int, Field(ge=0, le=MAX_PROPOSAL)] | None = Field(
        None, description="Cap on the depth of the draft's proposals; 0: it is not asked."
    )
    tree_width: Annotated[int, Field(ge=1, le=MAX_TREE_WIDTH)] | None = Field(
        None, description="Guesses behind each token; 1 is a chain."
    )
    tree_depth: Annotated[int, Field(ge=1, le=MAX_PROPOSAL)] | None = Field(
        None, description="Levels that have so many guesses."
    )
    min_match: Annotated[int, Field(ge=0, le=MAX_PROPOSAL)] | None = Field(
        None, description="Tier 0 guesses where the last so many tokens occurred before; 0: never."
    )
    max_lookup: Annotated[int, Field(ge=1, le=MAX_PROPOSAL)] | None = Field(
        None, description="Cap on the proposals of tier 0."
    )
    draft_toll: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = Field(
        None, description="Cost of a proposal of the draft, in target steps; tier 0 has none."
    )
    trace: bool | None = Field(None, description="Name the writer of every token in the answer.")
    task: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="Class of the task, for the plan table and the plan file."
    )

    def given(self) -> dict[str, Any]:
        """The fields of the plan that are set here."""
        given = self.model_dump(exclude={"mode", "trace", "task"}, exclude_none=True)
        if "exit_thresholds" in given:
            given["exit_thresholds"] = tuple(given["exit_thresholds"])
        return given

    def plan(self, default: Plan) -> Plan:
        """The default plan with the fields set here in their place."""
        return replace(default, **self.given())


class SamplingRequest(Request):
    """The fields that a chat completion and a completion share. Null means absent."""

    model: Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=2)] | None = None
    logit_bias: LogitBias | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_OUTPUT_TOKENS)] | None = None
    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=0, lt=2**SEED_BITS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    s2d: SpeculationOptions | None = None

    @property
    def speculation(self) -> SpeculationOptions:
        """The field `s2d`, or its defaults."""
        return self.s2d or SpeculationOptions()

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_shared(self, max_tokens: int | None, num_prompts: int = 1) -> None:
        """Raise RequestError if two of the shared fields contradict each other."""
        num_choices = num_prompts * (self.n or 1)
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is only allowed with stream: true", "stream_options")
        if max_tokens is not None and (self.min_tokens or 0) > max_tokens:
            raise RequestError("min_tokens is more than max_tokens", "min_tokens")
        if self.speculation.trace and num_choices > 1:
            raise RequestError("s2d.trace shows one text; ask for one choice", "s2d.trace")

    def sampling(
        self, *, max_tokens: int | None, logprobs: int | None, format: JsonFormat | None
    ) -> SamplingParams:
        """The fields as targets know them; each call without `seed` draws another one."""
        seed = secrets.randbits(SEED_BITS) if self.seed is None else self.seed
        bias = {int(key): addend for key, addend in (self.logit_bias or {}).items()}
        return SamplingParams(
            seed=seed,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k or 0,
            max_tokens=max_tokens,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            min_p=self.min_p or 0.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            logit_bias=tuple(sorted(bias.items())),
            min_tokens=self.min_tokens or 0,
            stop_token_ids=tuple(dict.fromkeys(self.stop_token_ids or ())),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            format=format,
        )

    def fan_out(
        self, request_id: str, prompts: Sequence[Prompt], sampling: SamplingParams, default: Plan
    ) -> tuple[GenerateRequest, ...]:
        """One request for each choice: choice i of n for prompt j is number j · n + i."""
        options, n = self.speculation, self.n or 1
        return tuple(
            GenerateRequest(
                request_id=f"{request_id}-{j * n + i}",
                prompt=prompt,
                sampling=replace(sampling, seed=choice_seed(sampling.seed, j, i)),
                plan=options.plan(default),
                mode=options.mode or Mode.AUTO,
                trace=bool(options.trace),
                cache_salt=self.cache_salt or "",
                fixed=frozenset(options.given()),
            )
            for j, prompt in enumerate(prompts)
            for i in range(n)
        )
