"""`s2d init`: a first config for models that are at hand, from what their own files say.

Pure text from a few facts; loads no torch and starts no Ray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from s2d_ray.config import DraftConfig, TargetConfig
from s2d_ray.errors import ConfigError
from s2d_ray.models import draft_files, sources
from s2d_ray.models.families import check_family
from s2d_ray.models.kv_budget import TokenSize, needed_mib
from s2d_ray.models.text import fingerprint_of

LONGEST: int = TargetConfig.model_fields["max_context"].default
HEAD: int = DraftConfig.model_fields["head_size"].default
TARGET_MIB: int = TargetConfig.model_fields["kv_cache_mib"].default
DRAFT_MIB: int = DraftConfig.model_fields["kv_cache_mib"].default
TEXTS = 4
"""Whole texts of the longest context that a cache should hold; shorter ones are more."""

HEAD_LINES = """\
# Made by `s2d init`. Every key and its default: docs/configuration.md.
# Also here, with defaults: http (port 8000 of this machine only), plan, routing, tenancy, control.
version: 1
"""


@dataclass(frozen=True)
class Model:
    """What a config says of a model. vocabulary: ids of its tokenizer; fields: its config.json."""

    source: str
    vocabulary: int
    fields: Mapping[str, Any]

    @property
    def num_layers(self) -> int:
        """Its decoder layers."""
        return int(self.fields["num_hidden_layers"])

    @property
    def size(self) -> int:
        """Grows with its weights: by it the smallest of several is found."""
        return self.num_layers * int(self.fields["hidden_size"]) ** 2


def read_model(source: str) -> Model:
    """Raises S2DError for a source that is wrong, not fetched yet, or of no family that is served.

    A folder or file is named by its whole path, so that the config means it from everywhere.
    """
    folder = sources.find(source)
    if folder is None:
        raise ConfigError(f"{source}: is not here yet; fetch it: s2d models pull '{source}'")
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    check_family(fields, source)
    fingerprint_of(folder)  # tells what is wrong with a tokenizer
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    parsed = sources.parse_source(source)
    if isinstance(parsed, sources.LocalFolder | sources.GgufFile):
        source = str(parsed.path.absolute())
    return Model(source, vocabulary, fields)


def first_config(targets: Mapping[str, str], draft: str | None) -> str:
    """The text of a config.

    targets: sources by name. draft: the folder of a trained draft, or the source of the model to
    cut one from; by default the smallest target. Raises S2DError as `read_model`.
    """
    models = {name: read_model(source) for name, source in targets.items()}
    parts = [HEAD_LINES, _draft_lines(list(models.values()), draft), "targets:"]
    parts += [_target_lines(name, model) for name, model in models.items()]
    return "\n".join(parts) + "\n"


def exits_for(base: Model, is_target: bool) -> tuple[int, ...]:
    """Layers of the sub-models of a draft cut from `base`.

    A model that is served itself gives a sixth of its layers, with an exit half way: a draft must
    be much cheaper than its target. A smaller model gives all of them, behind a quarter and a half.
    """
    layers = base.num_layers
    if is_target:
        first = max(1, layers // 12)
        return (first, 2 * first) if 2 * first <= layers else (first,)
    return tuple(sorted({max(1, layers // 4), max(1, layers // 2), layers}))


def next_steps(path: Path, target: str, *, is_trained: bool) -> str:
    """What is left to the user, as commands."""
    steps = [("what is wrong with it", f"s2d check {path}")]
    if not is_trained:
        steps += [
            ("cut the draft that it names", f"s2d models pull --config {path}"),
            ("text of the target's own", f"s2d corpus --config {path} --target {target} --out C"),
            ("a draft that knows it", f"s2d train --config {path} --corpus C --out R"),
            ("the same with that draft", "s2d init … --draft R/draft"),
        ]
    steps += [
        ("plans for this machine", f"s2d calibrate {path}"),
        ("serve it", f"s2d serve {path}"),
    ]
    width = max(len(what) for what, _ in steps)
    return "\n".join(f"  {what:<{width}}  {command}" for what, command in steps)


def is_trained_draft(draft: str | None) -> bool:
    """Whether these words name a draft that is ready, not a model to cut one from."""
    if draft is None:
        return False
    return draft.startswith(f"{draft_files.SHIPPED}:") or (Path(draft) / "draft.json").exists()


def _draft_lines(targets: list[Model], draft: str | None) -> str:
    if draft is not None and is_trained_draft(draft):
        shipped = draft.startswith(f"{draft_files.SHIPPED}:")
        place = draft if shipped else str(Path(draft).absolute())
        return f"draft:\n  checkpoint: {json.dumps(place)}\n"
    base = read_model(draft) if draft is not None else min(targets, key=lambda each: each.size)
    exits = exits_for(base, is_target=base.source in {each.source for each in targets})
    head = min(HEAD, base.vocabulary)
    context = max(_context(each) for each in targets)
    lines = [
        "# Cut from the base as it is, such a draft guesses little: train it (`s2d train`).",
        "draft:",
        f"  base: {json.dumps(base.source)}",
        f"  exit_layers: {json.dumps(exits)} # of {base.num_layers}",
        f"  head_size: {head} # of {base.vocabulary:,} ids",
        *_cache_line(base, DRAFT_MIB, context, exits),
    ]
    return "\n".join(lines) + "\n"


def _target_lines(name: str, model: Model) -> str:
    context = _context(model)
    limit = int(model.fields.get("max_position_embeddings", context))
    lines = [
        f"  {json.dumps(name)}:",
        f"    model: {json.dumps(model.source)}",
        "    precision: float32 # int8 takes a quarter of the memory; bfloat16 on a GPU",
        f"    max_context: {context} # of {limit:,}; prompt and answer together",
        *("  " + line for line in _cache_line(model, TARGET_MIB, context, ())),
    ]
    return "\n".join(lines)


def _context(model: Model) -> int:
    return min(LONGEST, int(model.fields.get("max_position_embeddings", LONGEST)))


def _cache_line(model: Model, default: int, context: int, exits: tuple[int, ...]) -> list[str]:
    """A cache for some texts of the longest context, at least the default one."""
    try:
        token_bytes = TokenSize.of(model.fields, exits).num_bytes("float32")
    except KeyError:  # filled in by the family's own code
        return []
    mib = max(default, needed_mib(TEXTS * context, token_bytes))
    return [f"  kv_cache_mib: {mib} # {mib * 2**20 // token_bytes:,} tokens of all texts together"]
