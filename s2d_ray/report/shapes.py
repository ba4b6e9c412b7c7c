"""What the last lines of the commands hold, as far as a report reads it.

A newer command may say more, which is left out; what is missing is named by pydantic.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

Ends = tuple[float, float]
"""Lowest and highest."""


class Shape(BaseModel):
    """Values as a command wrote them."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Result(Shape):
    """One result. card: of hardware and code; empty where an older command wrote none."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    card: dict[str, str] = {}


class Speedup(Shape):
    """Speed over plain decoding."""

    overall: float
    groups: dict[str, float]


class QuestionSpread(Shape):
    """Of the ratios of single questions."""

    ends: Ends


class SpecPlan(Shape):
    """One plan of `s2d bench spec`."""

    speedup: Speedup
    spread: QuestionSpread
    mean_accepted_length: float
    identical: bool
    identical_questions: int


class PlainSpeed(Shape):
    """Plain decoding, tokens per second."""

    tokens_per_second: float
    groups: dict[str, float]


class SpecTarget(Shape):
    """One target of `s2d bench spec`. questions: how many, by group."""

    plans: dict[str, SpecPlan]
    plain: PlainSpeed
    questions: dict[str, int]


class Spec(Result):
    """`s2d bench spec`."""

    targets: dict[str, SpecTarget]


class Curves(Shape):
    """Bare calls, in milliseconds, by their shapes in words."""

    stock: float
    forward: dict[str, float]
    draft: dict[str, dict[str, float]]


class Engine(Result):
    """`s2d bench engine`; after `--curves` without the ratios. spread: ends by figure, or by figure
    and case. runs: those that each ratio is the median of."""

    forward_rows: dict[str, float]
    draft_rows_8_vs_1: float
    curves_ms: Curves | None = None
    plain_vs_generate: float | None = None
    plain_vs_continuous_batching: dict[str, float] = {}
    speculation: dict[str, float] = {}
    speculation_sampled: dict[str, float] = {}
    actor_vs_in_process: float | None = None
    shared_vs_private: float | None = None
    shares_of_ideal: dict[str, float] = {}
    acceptance: dict[str, float] = {}
    spread: dict[str, Ends | dict[str, Ends]] = {}
    runs: int = 3


class CalibratedClass(Shape):
    """A class of task of `s2d calibrate`. calibration_error: by map; None where none was known."""

    best: str
    predicted_over_plain: float
    interval: Ends
    held_out_over_plain: float
    texts: int
    calibration_error: dict[str, float | None]


class Calibrate(Result):
    """`s2d calibrate`, by target and class of task."""

    targets: dict[str, dict[str, CalibratedClass]]


class SweptPlan(Shape):
    """One plan of `s2d sweep`, over plain decoding."""

    predicted: float
    measured: float
    spread: Ends
    mean_accepted_length: float
    identical: bool


class SweepTarget(Shape):
    """One target of `s2d sweep`. by_concurrency: medians of runs, by texts at once."""

    by_plan: dict[str, SweptPlan]
    by_concurrency: dict[str, float]
    concurrency_spread: dict[str, Ends] = {}
    concurrency_runs: int = 1
    by_group: dict[str, float]
    plain_tokens_per_second: float
    prompts: int


class Sweep(Result):
    """`s2d sweep`."""

    targets: dict[str, SweepTarget]


class StepCost(Shape):
    """A draft step of one row."""

    of_target_step: float


class ExitWorth(Shape):
    """One exit of `s2d evaluate-draft`, most by temperature. reliability: (guesses, mean
    confidence, share accepted) by bin of confidence."""

    agreement: float
    expected_accepted_length: dict[str, float]
    coupled_over_optimal: dict[str, float]
    calibration_error: dict[str, float]
    acceptance: dict[str, float]
    optimum: dict[str, float]
    cost: StepCost
    reliability: dict[str, list[tuple[int, float, float]]] = {}


class EvaluatedTarget(Shape):
    """One target of `s2d evaluate-draft`, by layers of the exit."""

    tokens: int
    exits: dict[str, ExitWorth]


class Evaluate(Result):
    """`s2d evaluate-draft`."""

    targets: dict[str, EvaluatedTarget]


class Training(Result):
    """`training.json` of a draft: the recipe and its best evaluation. size_bytes, seconds: of the
    packed draft and of the work, where somebody wrote them beside it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    base: str
    exits: list[int] = Field(min_length=1)
    step: int
    tokens: int
    size_bytes: int | None = None
    seconds: dict[str, float] = {}

    def of_exits(self, name: str) -> dict[int, float]:
        """`name` is agreed (with the target's likeliest token), loss or overlap."""
        extra = self.model_extra or {}
        return {n: float(extra[f"{name}_{n}"]) for n in self.exits if f"{name}_{n}" in extra}


class Vllm(Result):
    """Beside vLLM, by texts at once."""

    plain_vs_vllm: dict[str, float]
    spread: dict[str, Ends]
    same_ids: bool


class LoadRun(Shape):
    """One rate of `make load`. ttft_ms, tpot_ms: by percentile."""

    offered_per_s: float
    requests: int
    answered: int
    goodput_tokens_per_s: float
    ttft_ms: dict[str, float]
    tpot_ms: dict[str, float]


class Load(Result):
    """`make load`."""

    runs: list[LoadRun]


class RouterCell(Shape):
    """So many clients. ratio: requests a second over the echo's, median, lowest and highest."""

    ratio: tuple[float, float, float]


class Router(Result):
    """`s2d bench router`, by number of clients: answers of one token, and streamed ones."""

    whole: dict[str, RouterCell]
    streamed: dict[str, RouterCell]

    @property
    def cases(self) -> dict[str, dict[str, RouterCell]]:
        """Both, by name."""
        return {"whole": self.whole, "streamed": self.streamed}
