"""The audit of dependencies says when it has checked nothing, and hands on what the tool finds."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import audit
from tests.fakes_http import FakeBackend, app_over, serving


def test_without_the_database_it_says_that_nothing_was_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:  # bound, and listens to nobody
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/query"
        assert audit.audit(url, tmp_path / "tool", run=_never) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "NOT RUN" in line
    assert url in line


def _never(command: Sequence[str]) -> int:
    raise AssertionError(command)


@pytest.mark.parametrize("found", [0, 1])
def test_what_the_tool_finds_is_the_exit_status(tmp_path: Path, found: int) -> None:
    ran: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> int:
        ran.append(command)
        return found if "pip_audit" in command else 0

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    with serving(app_over(FakeBackend())) as url:  # any answer will do, here a 404
        assert audit.audit(f"{url}/v1/query", tmp_path, run) == found
    assert ["install" in ran[0], "pip_audit" in ran[1]] == [True, True]
    assert ran[1][-1] == f"{url}/v1/query"
    pins = Path(ran[1][ran[1].index("-r") + 1]).read_text().splitlines()
    assert all("==" in pin for pin in pins)


def test_a_tool_that_cannot_be_installed_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    with serving(app_over(FakeBackend())) as url:
        assert audit.audit(url, tmp_path, lambda command: 7) == 7
