"""The config file of a running `s2d serve`: its live part is taken over, the rest waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2d_ray.config import load_config
from s2d_ray.serve.live_config import LiveConfig

BASE = "targets: {a: {model: folder}, b: {model: folder}}\n"
ROUTED = BASE + "routing: {splits: {prod: {a: 9, b: 1}}}\n"


class Watched:
    """A file, what was said of it, and checks that find `troubles`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_text(BASE)
        started = load_config(path)
        http = started.http.model_copy(update={"port": 9_000})  # as by --port
        self.said: list[str] = []
        self.troubles: list[str] = []
        self.live = LiveConfig(
            path,
            started.model_copy(update={"http": http}),
            lambda config: self.troubles,
            self.said.append,
        )
        assert self.live.look() is None


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "my.yaml")


def test_a_changed_routing_and_plan_are_taken_over_once(watched: Watched) -> None:
    watched.path.write_text(ROUTED + "plan: {max_proposal: 2}\n")
    taken = watched.live.look()
    assert taken is not None
    assert taken.routing is not None
    assert taken.routing.splits == {"prod": {"a": 9.0, "b": 1.0}}
    assert (taken.plan.max_proposal, taken.http.port) == (2, 9_000)
    assert watched.live.look() is None
    watched.path.write_text(BASE)
    back = watched.live.look()
    assert back is not None
    assert back.routing is None


def test_other_changes_wait_and_are_named(watched: Watched) -> None:
    """Nothing restarts because a file was saved."""
    watched.path.write_text(ROUTED.replace("a: {model: folder}", "a: {model: other}"))
    taken = watched.live.look()
    assert taken is not None
    assert taken.targets["a"].model == "folder"
    assert "targets wait for the next start" in watched.said[0]


def test_a_broken_file_changes_nothing_and_is_told_once(watched: Watched) -> None:
    for text, words in {
        "targets: [": "not valid YAML",
        BASE + "routing: {splits: {prod: {nowhere: 1}}}\n": "no target 'nowhere'",
        "targets: {c: {model: folder}}\nrouting: {targets: {c: {cost: 2}}}\n": "no target 'c'",
    }.items():
        watched.said.clear()
        watched.path.write_text(text)
        assert [watched.live.look(), watched.live.look()] == [None, None]
        assert any(words in line for line in watched.said)
        assert watched.said[-1].endswith("stays as it was")
    watched.path.unlink()
    assert watched.live.look() is None
    watched.path.write_text(ROUTED)
    assert watched.live.look() is not None


def test_what_the_models_say_against_it_counts_too(watched: Watched) -> None:
    watched.troubles = ["plan.exit_thresholds: 3 thresholds for 2 exits; give at most 1"]
    watched.path.write_text(BASE + "plan: {exit_thresholds: [0.1, 0.2, 0.3]}\n")
    assert watched.live.look() is None
    assert "give at most 1" in watched.said[-2]
