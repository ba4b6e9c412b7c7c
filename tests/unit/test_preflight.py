"""The checks before anything is installed: each names what is wrong and the fix, in one line."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from s2d_ray import install, preflight

SCRIPT = Path(preflight.__file__)


def one_line(error: pytest.ExceptionInfo[preflight.Problem]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_old_python_is_named_with_the_one_that_is_needed() -> None:
    preflight.check_python((3, 11))
    with pytest.raises(preflight.Problem) as error:
        preflight.check_python((3, 9))
    assert "3.9" in one_line(error)
    assert "PYTHON=" in one_line(error)


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_missing_venv_module_names_the_package_that_has_it(missing: str) -> None:
    preflight.check_venv(lambda module: True)
    with pytest.raises(preflight.Problem) as error:
        preflight.check_venv(lambda module: module != missing)
    assert "apt install python3-venv" in one_line(error)


def test_a_full_disk_names_the_folder_and_what_is_needed() -> None:
    preflight.check_disk("/somewhere", 6 * preflight.GIB, 6 * preflight.GIB)
    with pytest.raises(preflight.Problem) as error:
        preflight.check_disk("/somewhere", 6 * preflight.GIB, 5 * preflight.GIB)
    assert "/somewhere has 5.0 GiB free, 6 GiB" in one_line(error)


def test_a_folder_that_is_yet_to_be_made_counts_where_it_will_lie(tmp_path: Path) -> None:
    assert preflight.existing_parent(str(tmp_path / "a" / "b")) == str(tmp_path)


def test_short_memory_is_refused_and_an_unknown_amount_is_not() -> None:
    preflight.check_memory(None)
    preflight.check_memory(preflight.MEMORY_BYTES)
    with pytest.raises(preflight.Problem) as error:
        preflight.check_memory(preflight.MEMORY_BYTES - 1)
    assert "memory" in one_line(error)


def test_small_shared_memory_is_refused_with_the_remount() -> None:
    preflight.check_shared_memory(None)
    preflight.check_shared_memory(preflight.SHARED_MEMORY_BYTES)
    with pytest.raises(preflight.Problem) as error:
        preflight.check_shared_memory(64 * 2**20)
    assert "64 MiB" in one_line(error)
    assert "--shm-size" in one_line(error)


def test_a_port_shared_by_its_owner_still_counts_as_taken() -> None:
    with socket.socket() as owner:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        owner.bind(("127.0.0.1", 0))
        owner.listen(1)
        port = owner.getsockname()[1]
        with pytest.raises(preflight.Problem) as error:
            preflight.check_port("127.0.0.1", port)
        assert f"PORT={port + 1}" in one_line(error)
    preflight.check_port("127.0.0.1", port)


def test_the_script_prints_one_line_and_fails_on_a_taken_port() -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen(1)
        port = str(owner.getsockname()[1])
        command = [sys.executable, str(SCRIPT), "--venv", sys.prefix, "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert port in done.stderr


def test_the_script_uses_no_syntax_newer_than_python_3_6() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))
    newer = (ast.NamedExpr, ast.Match)
    assert not [node for node in ast.walk(tree) if isinstance(node, newer)]
    assert not [
        n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr)
    ]


def test_the_mark_holds_for_the_same_pins_and_at_least_the_same_extras(tmp_path: Path) -> None:
    mark = tmp_path / "installed.json"
    assert not install.is_installed(mark, "key", "")
    install.write_mark(mark, "key", "")
    assert install.is_installed(mark, "key", "")
    assert not install.is_installed(mark, "other", "")
    assert not install.is_installed(mark, "key", "dev")
    install.write_mark(mark, "key", "dev")
    assert install.is_installed(mark, "key", "")
    assert install.is_installed(mark, "key", "dev")


def test_a_damaged_mark_counts_as_none(tmp_path: Path) -> None:
    mark = tmp_path / "installed.json"
    for text in ("", "[]", "{}"):
        mark.write_text(text)
        assert not install.is_installed(mark, "key", "")


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_a_change_of_the_pins_asks_for_a_new_installation(tmp_path: Path, name: str) -> None:
    for file in ("constraints.txt", "pyproject.toml"):
        (tmp_path / file).write_text("one")
    before = install.pins_key(tmp_path)
    assert install.pins_key(tmp_path) == before
    (tmp_path / name).write_text("two")
    assert install.pins_key(tmp_path) != before


def test_a_second_set_up_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("a program was started")

    root = Path(install.__file__).resolve().parent.parent
    install.write_mark(tmp_path / "installed.json", install.pins_key(root), "dev")
    monkeypatch.setattr(install.subprocess, "run", refuse)
    assert install.main(["--venv", str(tmp_path), "--extra", "dev"]) == 0


def test_a_large_torch_is_announced_with_the_way_to_a_small_one() -> None:
    small = install.Amount(10, 202 * 10**6, exact=True)
    large = install.Amount(20, 3_400 * 10**6, exact=True)
    assert "10 wheels, 202 MB" in install.announce(small, small, False)[0]
    assert "TORCH_INDEX" not in "".join(install.announce(small, small, False))
    assert "3.4 GB" in install.announce(large, small, False)[0]
    assert "TORCH_INDEX=URL" in install.announce(large, small, False)[-1]
    assert "TORCH_INDEX" not in "".join(install.announce(large, small, True))


def test_the_size_of_a_local_wheel_is_that_of_its_file(tmp_path: Path) -> None:
    wheel = tmp_path / "torch-2.13.0+cpu.whl"
    wheel.write_bytes(b"x" * 1234)
    told = install.amount([wheel.as_uri().replace("+", "%2B")])
    assert told == install.Amount(1, 1234, exact=True)


def test_a_server_that_tells_no_size_makes_the_sum_a_lower_bound(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"x" * 2_000_000)
    told = install.amount([wheel.as_uri(), "nowhere:///b.whl"])
    assert str(told) == "2 wheels, at least 2 MB"


def test_wheels_that_do_not_fit_on_the_disk_are_refused_before_the_download() -> None:
    install.check_room(Path(".venv"), 100, 400)
    with pytest.raises(install.Failed, match="free some disk space"):
        install.check_room(Path(".venv"), 100, 399)


def test_every_pin_is_exact_and_torch_names_no_build() -> None:
    root = Path(install.__file__).resolve().parent.parent
    lines = (root / "constraints.txt").read_text(encoding="utf-8").split()
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    assert install.torch_pin(root) == "torch==2.13.0"
