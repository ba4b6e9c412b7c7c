"""Results on disk: a last line kept in a file, or the folder of a run; told apart by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from s2d_ray.bench import spec_figures
from s2d_ray.bench.spec_answers import ANSWERS, parse_answered
from s2d_ray.bench.spec_figures import BASELINE, Answered
from s2d_ray.errors import DataError
from s2d_ray.job_folder import SETTINGS
from s2d_ray.report import shapes
from s2d_ray.report.shapes import Result

RESULTS: Final = ("report.json", "evaluation.json", "training.json")
"""What a folder's result may be called."""

COMMANDS: Final[Mapping[type[Result], str]] = {
    shapes.Spec: "bench spec",
    shapes.Engine: "bench engine",
    shapes.Calibrate: "calibrate",
    shapes.Sweep: "sweep",
    shapes.Evaluate: "evaluate-draft",
    shapes.Training: "train",
    shapes.Vllm: "beside vLLM",
    shapes.Load: "make load",
    shapes.Router: "bench router",
}
"""Each kind of result, and what wrote it, in the order of the page."""


@dataclass(frozen=True)
class Source:
    """One result. name: of its file or folder. digest: of its content, 12 hex digits.

    answers: question by question, where a folder of `bench spec` or `sweep` has them.
    """

    name: str
    result: Result
    digest: str
    answers: tuple[Answered, ...] = ()

    @property
    def kind(self) -> str:
        """The command that wrote it."""
        return COMMANDS[type(self.result)]

    @property
    def commit(self) -> str:
        """Of the code that was measured; "unknown" where the result does not say."""
        return self.result.card.get("commit", "unknown")


def read_source(path: Path) -> Source:
    """A file with a last line, or a folder. Raises DataError naming it and what is missing."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    return _read_folder(path) if path.is_dir() else _read_file(path)


def _read_folder(folder: Path) -> Source:
    """The folder's result; without one, of `bench spec` what has been answered so far."""
    answers = read_answers(folder / ANSWERS) if (folder / ANSWERS).exists() else ()
    found = next((folder / name for name in RESULTS if (folder / name).exists()), None)
    if found is None and not answers:
        raise DataError(f"{folder}: has none of {', '.join(RESULTS)}, nor an answer; name a result")
    source = _unfinished(folder, answers) if found is None else _read_file(found)
    if answers:
        joined = json.dumps([source.digest, [repr(each) for each in answers]])
        source = replace(source, answers=answers, digest=_digest(joined))
    return replace(source, name=folder.name)


def read_answers(path: Path) -> tuple[Answered, ...]:
    """All whole lines; a run may be writing the next one. Raises DataError for a damaged line."""
    found = []
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            found.append(parse_answered(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataError(f"{path}:{number}: is damaged; remove the line") from None
    return tuple(found)


def _unfinished(folder: Path, answers: Sequence[Answered]) -> Source:
    """A run of `bench spec` that is not at its end. Raises DataError for one of `sweep`."""
    settings = _json(folder / SETTINGS)
    if not isinstance(settings, dict) or "questions" not in settings:
        raise DataError(f"{folder}: its run is not at its end, so there is no report.json yet")
    plans = [plan for plan in answers[0].answers if plan != BASELINE]
    targets = {
        name: spec_figures.target_figures([each for each in answers if each.target == name], plans)
        for name in dict.fromkeys(each.target for each in answers)
    }
    card = {
        "commit": ", ".join(dict.fromkeys(each.commit for each in answers)),
        "config": str(settings.get("config", "")),
        "scale": f"not at its end: {len(answers)} questions answered, "
        f"{settings.get('max_new_tokens')} tokens at most, T = {settings.get('temperature')}, "
        f"seed {settings.get('seed')}",
    }
    return parse(folder, {"targets": targets, "card": card})


def _read_file(path: Path) -> Source:
    return parse(path, _json(path))


def _json(path: Path) -> Any:
    """A file of JSON, or a log that ends with a line of it. Raises DataError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    for candidate in (text, *lines[-1:]):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    raise DataError(f"{path}: neither the file nor its last line is JSON")


def parse(path: Path, tree: Any) -> Source:
    """A result from plain values. Raises DataError naming `path` and the first thing missing."""
    kind = recognise(tree)
    if kind is None:
        known = ", ".join(f"`{command}`" for command in COMMANDS.values())
        raise DataError(f"{path}: is no result of {known}")
    try:
        result = kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"{path}: is no whole result of `{COMMANDS[kind]}`: {what}") from None
    name = path.parent.name if path.name in RESULTS else path.name
    return Source(name, result, _digest(json.dumps(tree, sort_keys=True)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def recognise(tree: Any) -> type[Result] | None:
    """The kind of a result, by the keys that only it has."""
    if not isinstance(tree, dict):
        return None
    own: Sequence[tuple[type[Result], Callable[[dict[str, Any]], bool]]] = (
        (shapes.Engine, lambda tree: "forward_rows" in tree),
        (shapes.Vllm, lambda tree: "plain_vs_vllm" in tree),
        (shapes.Training, lambda tree: "exits" in tree and "base" in tree),
        (shapes.Load, lambda tree: "runs" in tree and "card" in tree),
        (shapes.Router, lambda tree: "whole" in tree and "streamed" in tree),
    )
    for kind, holds in own:
        if holds(tree):
            return kind
    targets = tree.get("targets")
    first = next(iter(targets.values()), None) if isinstance(targets, dict) else None
    if not isinstance(first, dict):
        return None
    for key, kind in (
        ("by_plan", shapes.Sweep),
        ("exits", shapes.Evaluate),
        ("plain", shapes.Spec),
        ("plans", shapes.Spec),
    ):
        if key in first:
            return kind
    one = next(iter(first.values()), None)
    return shapes.Calibrate if isinstance(one, dict) and "best" in one else None
