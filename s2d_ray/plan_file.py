"""The plan file: what calibration found, for routers and replicas. Loads no torch and no Ray.

Per target: what its work costs; per class of task: how likely guesses are accepted, and the plans
worth having, best first. `s2d calibrate` writes it; `plans:` of a config names it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from s2d_ray.config import AppConfig, DraftConfig, PlanConfig, Section, check_section
from s2d_ray.core.calibration import AcceptanceModel, CalibrationMap, Knot
from s2d_ray.core.cascade import Plan
from s2d_ray.core.cost_model import CostModel
from s2d_ray.core.goodput import Candidate, DraftLevel
from s2d_ray.errors import ConfigError
from s2d_ray.policy.tasks import Task

PLAN_FILE_VERSION: Final = 1

LARGEST_BYTES = 2**24

Costs = Annotated[
    CostModel,
    PlainValidator(lambda tree: tree if isinstance(tree, CostModel) else CostModel.from_json(tree)),
    PlainSerializer(CostModel.to_json),
]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class Made(Section):
    """Where and when a file was made."""

    host: str
    commit: str
    date: str


class DraftMark(Section):
    """The draft that all figures are of. source: as the config names it. weights: their hash."""

    source: str
    exit_layers: tuple[int, ...]
    weights: str


class KnotRow(Section):
    """See `core.calibration.Knot`."""

    confidence: Share
    chance: Share
    low: Share
    high: Share
    count: float = Field(ge=0)


class MapRow(Section):
    """See `core.calibration.CalibrationMap`."""

    drafted_by: Count
    temperature: float = Field(ge=0)
    depth: Count
    knots: tuple[KnotRow, ...] = Field(min_length=1)
    error: float | None = None
    raw: float | None = None

    @model_validator(mode="after")
    def _rising(self) -> MapRow:
        for a, b in zip(self.knots, self.knots[1:], strict=False):
            if a.confidence >= b.confidence or a.chance > b.chance:
                raise ValueError("knots must rise")
        return self

    def map(self) -> CalibrationMap:
        """The same as the core names it."""
        fields = dict(self) | {"knots": tuple(Knot(**dict(knot)) for knot in self.knots)}
        return CalibrationMap(**fields)


class LevelRow(Section):
    """See `core.goodput.DraftLevel`."""

    shares: dict[int, Share]
    positions: dict[int, Annotated[float, Field(ge=0)]]

    @model_validator(mode="after")
    def _alike(self) -> LevelRow:
        if set(self.shares) != set(self.positions):
            raise ValueError("shares and positions must have the same exits")
        return self


class CandidateRow(Section):
    """See `core.goodput.Candidate`. goodput: predicted committed tokens per second by texts that
    run together; over_plain: the same over plain decoding."""

    plan: PlanConfig
    committed: float = Field(ge=1)
    nodes: dict[int, Share]
    levels: tuple[LevelRow, ...] = ()
    rounds: Count
    goodput: dict[int, float] = {}
    over_plain: dict[int, float] = {}

    @model_validator(mode="after")
    def _whole(self) -> CandidateRow:
        if not math.isclose(sum(self.nodes.values()), 1.0, abs_tol=1e-6):
            raise ValueError("the shares of nodes must sum to 1")
        return self

    def candidate(self) -> Candidate:
        """The same as the core names it."""
        levels = tuple(DraftLevel(each.shares, each.positions) for each in self.levels)
        return Candidate(self.plan.plan(), self.committed, self.nodes, levels, self.rounds)

    @classmethod
    def of(cls, candidate: Candidate) -> CandidateRow:
        """As the file has it, without predictions."""
        levels = tuple(
            LevelRow(shares=dict(each.shares), positions=dict(each.positions))
            for each in candidate.levels
        )
        return cls(
            plan=PlanConfig(**vars(candidate.plan)),
            committed=candidate.committed,
            nodes=dict(candidate.nodes),
            levels=levels,
            rounds=candidate.rounds,
        )


class ClassPlans(Section):
    """One class of task. acceptance: calibration maps. candidates: best first for one text alone;
    plain decoding is among them. texts: that were replayed."""

    acceptance: tuple[MapRow, ...] = ()
    candidates: tuple[CandidateRow, ...] = Field(min_length=1)
    texts: Count = 0

    @model_validator(mode="after")
    def _has_plain(self) -> ClassPlans:
        if not any(row.plan.plan().is_plain for row in self.candidates):
            raise ValueError(
                "candidates: plain decoding (max_proposal: 0, min_match: 0) is missing"
            )
        return self

    def model(self) -> AcceptanceModel:
        """The maps as the core names them."""
        return AcceptanceModel(tuple(row.map() for row in self.acceptance))

    def kept(self) -> tuple[Candidate, ...]:
        """The candidates as the core names them, best first."""
        return tuple(row.candidate() for row in self.candidates)


class TargetPlans(Section):
    """One target. model: as the config names it; weights: their hash."""

    model: str
    precision: str
    weights: str
    costs: Costs
    classes: dict[str, ClassPlans] = Field(min_length=1)

    def of(self, task: str) -> tuple[str, ClassPlans]:
        """The class that serves a task, and its plans: its own, else chat's, else the first."""
        for name in (task, Task.CHAT.value, next(iter(self.classes))):
            if name in self.classes:
                return name, self.classes[name]
        raise AssertionError("a target has at least one class")


class PlanFile(Section):
    """The whole file."""

    version: Literal[1] = PLAN_FILE_VERSION
    made: Made
    draft: DraftMark
    targets: dict[str, TargetPlans] = Field(min_length=1)

    @property
    def digest(self) -> str:
        """A short hash of all of it."""
        tree = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(tree.encode()).hexdigest()[:12]

    def plan_of(self, target: str, task: str) -> tuple[str, Plan] | None:
        """The class that serves a request and its best plan; None if the target is not in it."""
        plans = self.targets.get(target)
        if plans is None:
            return None
        name, found = plans.of(task)
        return name, found.candidates[0].plan.plan()

    def troubles(self, config: AppConfig) -> Iterator[str]:
        """What of it does not fit a config; each line names what differs."""
        if config.draft is None:
            yield "the config has no draft"
            return
        source = source_of(config.draft)
        if source != self.draft.source:
            yield f"made for draft {self.draft.source}, the config has {source}"
        for name, plans in self.targets.items():
            target = config.targets.get(name)
            if target is None:
                yield f"targets.{name}: the config has no target of this name"
            elif (target.model, target.precision) != (plans.model, plans.precision):
                yield (
                    f"targets.{name}: made for {plans.model} in {plans.precision}, the config has "
                    f"{target.model} in {target.precision}"
                )
        most = len(self.draft.exit_layers) - 1
        for where, row in self._rows():
            if len(row.plan.exit_thresholds) > most:
                yield f"{where}.plan.exit_thresholds: more than {most}, of {most + 1} exits"

    def _rows(self) -> Iterator[tuple[str, CandidateRow]]:
        for name, plans in self.targets.items():
            for task, found in plans.classes.items():
                for number, row in enumerate(found.candidates):
                    yield f"targets.{name}.classes.{task}.candidates.{number}", row


def source_of(draft: DraftConfig) -> str:
    """A draft in one line, as the config names it."""
    if draft.checkpoint is not None:
        return draft.checkpoint
    exits = ",".join(map(str, draft.exit_layers))
    return f"{draft.base} exits {exits} head {draft.head_size}"


def load_plan_file(path: Path) -> PlanFile:
    """Raises ConfigError that names the file, and the key that is wrong."""
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ConfigError(f"{path}: too large for a plan file")
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path}: not JSON; make it with `s2d calibrate`") from None
    return parse_plan_file(tree, str(path))


def parse_plan_file(tree: Any, origin: str) -> PlanFile:
    """From plain values. Raises ConfigError that names `origin` and the key that is wrong."""
    version = tree.get("version") if isinstance(tree, Mapping) else None
    if version != PLAN_FILE_VERSION:
        raise ConfigError(
            f"{origin}: version {version} is not {PLAN_FILE_VERSION}; run `s2d calibrate` again"
        )
    return check_section(PlanFile, tree, origin)
