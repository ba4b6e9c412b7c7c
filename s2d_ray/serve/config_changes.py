"""What each changed key of a config does to what runs, read off the Serve documents of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from s2d_ray.changes import Change, serve_changes
from s2d_ray.config import AppConfig, as_written
from s2d_ray.serve.deploy import render

Path = tuple[str, ...]


@dataclass(frozen=True)
class ConfigChange:
    """Keys that change, and what that does; several keys if none of them can change alone."""

    keys: tuple[str, ...]
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        keys = ", ".join(self.keys)
        return "\n".join(f"{keys}: {change}" for change in self.changes or ("nothing changes",))


def config_changes(old: AppConfig, new: AppConfig) -> Iterator[ConfigChange]:
    """The way from one config to another, key by key.

    Each step starts from the one before, so that together they are the whole way. What is written
    counts, not what it means: a default that is written out is an argument like others.
    """
    tree, wanted = as_written(old), as_written(new)
    before = old
    keys: list[str] = []
    for path in list(_changed(tree, wanted, ())):
        _take_over(tree, wanted, path)
        keys.append(".".join(path))
        try:
            after = AppConfig.model_validate(tree)
        except ValidationError:
            continue  # only valid together with the next key
        yield ConfigChange(tuple(keys), tuple(serve_changes(_document(before), _document(after))))
        before, keys = after, []


def _changed(old: dict[str, Any], new: dict[str, Any], path: Path) -> Iterator[Path]:
    """Paths of what differs; a section that only one of both has is one thing."""
    for key in old | new:
        below, above = old.get(key), new.get(key)
        if isinstance(below, dict) and isinstance(above, dict):
            yield from _changed(below, above, (*path, key))
        elif (key in old, below) != (key in new, above):
            yield (*path, key)


def _take_over(tree: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Make one place of `tree` as it is in `wanted`."""
    *sections, key = path
    for section in sections:
        tree, wanted = tree[section], wanted[section]
    if key in wanted:
        tree[key] = wanted[key]
    else:
        del tree[key]


def _document(config: AppConfig) -> dict[str, Any]:
    # Whether there are GPUs changes what is asked for, but not what a change restarts.
    return render(config, cluster_has_gpus=False)
