"""Shapes of what a reply tells beside its text: counts, and how it was speculated for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from s2d_ray.serve.openai.shapes import Count, PlanShape, Shape


class UsageDetails(Shape):
    """What became of the drafted tokens."""

    accepted_prediction_tokens: Count = Field(
        description="Guesses that equal what the target drew."
    )
    rejected_prediction_tokens: Count = Field(description="The other guesses.")


class PromptDetails(Shape):
    """What became of the prompt's tokens."""

    cached_tokens: Count = Field(description="Copied from a text computed before.")


class UsageShape(Shape):
    """OpenAI's usage."""

    prompt_tokens: Count = Field(description="Of all prompts, each counted once.")
    completion_tokens: Count = Field(description="Of all choices.")
    total_tokens: Count = Field(description="Both together.")
    prompt_tokens_details: PromptDetails = Field(description="More on the prompts.")
    completion_tokens_details: UsageDetails = Field(description="More on the answers.")


class TracedToken(Shape):
    """Who wrote one token."""

    token_id: int = Field(description="Its id.")
    text: str = Field(description="What became final with it; all of them join to the text.")
    drafted_by: int | None = Field(
        description="Layers of the sub-model that guessed it; 0: tier 0; null: the target wrote it."
    )
    confidence: float | None = Field(description="Of an accepted guess.")
    rank: int | None = Field(
        description="Place of the guess among those of its node, 0 the likeliest."
    )
    round: int = Field(
        description="The round that wrote it, from 1; the first token comes with the prompt, in 0."
    )


class Speculation(Shape):
    """The field `s2d` of a whole reply."""

    seed: int = Field(description="By which the same text comes again.")
    mode: Literal["auto", "off", "force"] = Field(description="As asked for.")
    plan: PlanShape = Field(
        description="That the text ended by; in a stream first that it begins by."
    )
    plan_reason: str = Field("", description="Why that plan.")
    rounds: Count = Field(description="Times that the target was asked.")
    mean_accepted_length: float = Field(description="1 + accepted / rounds.")
    accepted_by_submodel: dict[str, Count] = Field(
        description="Accepted guesses by layers of the sub-model."
    )
    accepted_by_rank: dict[str, Count] = Field(
        description="Accepted guesses by place among those of their node."
    )
    draft_misses: Count = Field(
        description="Rounds in which the draft was asked and did not answer in time."
    )
    tokens: list[TracedToken] = Field([], description="With `trace`: who wrote each token.")


class SpeculationPart(Shape):
    """Parts of it, in the chunks of a stream."""

    seed: int | None = Field(None, description="By which the same text comes again.")
    mode: Literal["auto", "off", "force"] | None = Field(None, description="As asked for.")
    plan: PlanShape | None = Field(
        None,
        description="That the text ended by; in a stream first that it begins by.",
    )
    plan_reason: str | None = Field(None, description="Why that plan.")
    rounds: Count | None = Field(None, description="Times that the target was asked.")
    mean_accepted_length: float | None = Field(None, description="1 + accepted / rounds.")
    accepted_by_submodel: dict[str, Count] | None = Field(
        None, description="Accepted guesses by layers of the sub-model."
    )
    accepted_by_rank: dict[str, Count] | None = Field(
        None, description="Accepted guesses by place among those of their node."
    )
    draft_misses: Count | None = Field(
        None, description="Rounds in which the draft was asked and did not answer in time."
    )
    tokens: list[TracedToken] = Field([], description="With `trace`: who wrote each token.")


class SpecDecode(Shape):
    """vLLM's counts of one text."""

    mean_acceptance_length: float = Field(
        description="1 + accepted / steps; a step is a round that had a proposal."
    )
    draft_acceptance_rate: float = Field(description="Accepted / drafted.")
    acceptance_histogram: list[Count] = Field(
        description="Number of steps that accepted 0, 1, 2, … tokens."
    )
    acceptance_histogram_by_draft_length: dict[str, list[Count]] = Field(
        description="The same by depth of the proposal."
    )
    num_spec_steps: Count = Field(description="Steps.")
    num_accepted_draft_tokens: Count = Field(description="Accepted.")
    num_draft_tokens: Count = Field(description="Drafted; a tree counts by its depth.")
    num_spec_tokens: Count = Field(description="The plan's `max_proposal`.")


class Metrics(Shape):
    """Counts as vLLM publishes them."""

    speculative_decoding: SpecDecode = Field(
        description="Of a reply with one choice and at least one proposal."
    )
