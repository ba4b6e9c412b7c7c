"""What one request asks of the drawing of its tokens. Stdlib only: every layer can name it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JsonFormat:
    """The output must be one JSON text: any object, or what `schema` (itself JSON text) allows."""

    schema: str | None = None


@dataclass(frozen=True)
class SamplingParams:
    """How the target draws its tokens, and where its text ends.

    A neutral value switches a control off: top_k 0, top_p 1, min_p 0, repetition_penalty 1.
    repetition_penalty sees prompt and output, presence and frequency penalties the output alone.
    logit_bias: (token id, addend). min_tokens: before that many, neither an end token nor a stop
    string ends the text. stop_token_ids end it too; ignore_eos: the model's own end tokens do not.
    logprobs: number of likeliest alternatives told with every token, None for no logprobs at all.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    format: JsonFormat | None = None

    @property
    def penalises(self) -> bool:
        """Whether a token's score depends on the tokens before it."""
        neutral = (0.0, 0.0, 1.0)
        mine = (self.presence_penalty, self.frequency_penalty, self.repetition_penalty)
        return mine != neutral
