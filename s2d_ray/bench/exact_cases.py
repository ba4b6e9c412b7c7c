"""What the exactness run compares: prompts, plans, runs, and the verdict over their outcomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import Mode

NUM_TOKENS = 32
TEMPERATURES = (0.0, 0.7, 1.0)
MAX_PROPOSALS = tuple(range(1, 9))
THRESHOLDS = (
    ((0.5, 0.5), 0.0),  # a row climbs while it is unsure
    ((0.0, 0.0), 0.0),  # the shallowest sub-model writes everything
    ((1.0, 1.0), 0.0),  # the deepest sub-model writes everything
    ((0.2, 0.6), 0.02),  # proposals end early
)
"""(exit thresholds, stop threshold)."""

TREE_WIDTHS = (1, 2, 3)

PLANS_PER_PROMPT = 3
"""With two, 120 forced runs per target could not hold each of 8 lengths 20 times."""

LEAST_PER_SETTING = 20

PROMPTS = (
    "What is the capital of France?",
    "Write two lines about rain.",
    "Why is the sky blue?",
    "Count from one to ten.",
    "Name three birds that cannot fly.",
    "Write a Python function that reverses a string.",
    "Translate to German: The train is late again.",
    "What is 17 times 6? Show the steps.",
    "Give me a recipe for pancakes.",
    "Who wrote The Brothers Karamazov?",
    "Explain photosynthesis to a child.",
    "Repeat this word eight times: echo",
    "Is a tomato a fruit or a vegetable? Answer in one word.",
    "List the planets in order of their distance from the sun.",
    "Write a polite e-mail that declines an invitation to a conference.",
    "What comes next: 2, 4, 8, 16?",
    "Summarise in one sentence: Bees carry pollen from flower to flower. Without them many plants "
    "would bear no fruit, and the animals that live on this fruit would go hungry. Farmers "
    "therefore bring hives to their orchards in spring, and in autumn they take the honey.",
    "Correct the spelling: Teh qiuck brwon fox jumsp ovre the layz dog.",
    "Write a JSON object with the keys name, age and city for an invented person.",
    "A farmer has 12 sheep. He buys 5 more, sells 4, and two lambs are born. On Monday 3 sheep run "
    "away, on Tuesday 2 of these come back, on Wednesday a neighbour gives him another 6, and on "
    "Thursday he lends 4 of them to his brother. How many sheep stand in his field on Friday?",
)


@dataclass(frozen=True)
class Run:
    """One text to write: a prompt under a plan, or without speculation (`plan` None)."""

    target: str
    temperature: float
    prompt: int
    plan: Plan | None
    concurrent: bool

    @property
    def mode(self) -> Mode:
        """How the request is sent."""
        return Mode.OFF if self.plan is None else Mode.FORCE

    @property
    def baseline_key(self) -> str:
        """Key of the same text written without speculation."""
        return f"{self.target}/{self.temperature}/{self.prompt}"

    @property
    def key(self) -> str:
        """Names the run in the file of outcomes."""
        if self.plan is None:
            return self.baseline_key
        exits = ",".join(map(str, self.plan.exit_thresholds))
        shape = f"{self.plan.max_proposal}x{self.plan.tree_width}"
        return f"{self.baseline_key}/{shape}/{exits}/{self.plan.stop_threshold}"

    def seed(self, base: int) -> int:
        """The same for every plan of one prompt."""
        return 1_000 * base + self.prompt


@dataclass(frozen=True)
class Outcome:
    """What a run wrote. seconds: its share of the wall time of the runs it was among."""

    key: str
    token_ids: tuple[int, ...]
    text: str
    reason: str
    rounds: int
    drafted: int
    accepted: int
    misses: int
    seconds: float

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Outcome:
        """Out of one line of the file of outcomes. Raises TypeError if it has other fields."""
        outcome = cls(**fields)  # type: ignore[arg-type]
        return cls(**{**asdict(outcome), "token_ids": tuple(outcome.token_ids)})


@dataclass(frozen=True)
class Comparison:
    """A forced run against the same text written without speculation."""

    run: Run
    forced: Outcome
    plain: Outcome

    @property
    def identical(self) -> bool:
        """Same ids, same text, same end."""
        forced, plain = self.forced, self.plain
        return (forced.token_ids, forced.text, forced.reason) == (
            plain.token_ids,
            plain.text,
            plain.reason,
        )

    @property
    def was_drafted(self) -> bool:
        """Whether proposals came; a text whose first token ends it has no round to speculate in."""
        return self.forced.drafted > 0 or self.forced.rounds == 0


def all_plans() -> tuple[Plan, ...]:
    """Every length under every threshold setting, neighbours differing in both and in width."""
    plans = []
    for number in range(len(MAX_PROPOSALS) * len(THRESHOLDS)):
        row, length = divmod(number, len(MAX_PROPOSALS))
        exits, stop = THRESHOLDS[(number + row) % len(THRESHOLDS)]
        width = TREE_WIDTHS[number % len(TREE_WIDTHS)]
        plans.append(Plan(exits, stop, MAX_PROPOSALS[length], width))
    return tuple(plans)


def runs_of(target: str, num_prompts: int, full: bool) -> Iterator[Run]:
    """All runs of one target: every prompt and temperature once off and with several plans."""
    plans = all_plans()
    number = 0
    for temperature in TEMPERATURES:
        for prompt in range(num_prompts):
            concurrent = prompt % 2 == 1
            yield Run(target, temperature, prompt, None, concurrent)
            for _ in range(len(plans) if full else PLANS_PER_PROMPT):
                plan = plans[number % len(plans)]
                number += 1
                yield Run(target, temperature, prompt, plan, concurrent)


def thin_settings(runs: Sequence[Run]) -> list[str]:
    """Settings that some target meets fewer than 20 times; empty for the whole run."""
    counts: Counter[str] = Counter()
    wanted = set()
    for target in {run.target for run in runs}:
        wanted |= {f"{target}: max_proposal {length}" for length in MAX_PROPOSALS}
        wanted |= {f"{target}: thresholds {setting}" for setting in THRESHOLDS}
        wanted |= {f"{target}: tree_width {width}" for width in TREE_WIDTHS}
    for run in runs:
        if run.plan is not None:
            setting = (run.plan.exit_thresholds, run.plan.stop_threshold)
            counts[f"{run.target}: max_proposal {run.plan.max_proposal}"] += 1
            counts[f"{run.target}: thresholds {setting}"] += 1
            counts[f"{run.target}: tree_width {run.plan.tree_width}"] += 1
    return sorted(setting for setting in wanted if counts[setting] < LEAST_PER_SETTING)


def compare(runs: Sequence[Run], outcomes: Mapping[str, Outcome]) -> list[Comparison]:
    """Every forced run beside its baseline, in the order of `runs`."""
    return [
        Comparison(run, outcomes[run.key], outcomes[run.baseline_key])
        for run in runs
        if run.plan is not None
    ]
