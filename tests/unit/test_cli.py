"""The `s2d` command: mistakes are one line and status 2; every word reaches what it calls."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from s2d_ray import __version__, cli
from s2d_ray.config import HttpConfig, load_config
from s2d_ray.errors import ModelError, RunError
from s2d_ray.serve import launcher, own_ray

ROOT = Path(__file__).resolve().parents[2]
RUNNER = CliRunner()


def run_s2d(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from s2d_ray.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_the_version_is_the_packages() -> None:
    assert RUNNER.invoke(cli.app, ["--version"]).stdout.strip() == f"s2d-ray {__version__}"


def test_the_command_is_named_as_the_project_says() -> None:
    assert RUNNER.invoke(cli.app, ["--help"]).exit_code == 0
    commands = {
        command.name or command.callback.__name__ for command in cli.app.registered_commands
    }
    assert commands == {
        "serve",
        "stop",
        "init",
        "check",
        "chat",
        "corpus",
        "train",
        "evaluate-draft",
        "pack-draft",
        "dashboards",
        "models",
        "bench",
        "simulate",
        "calibrate",
        "sweep",
        "advise",
        "report",
        "verdict",
        "kube",
        "tenant",
    }


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_missing_config_is_one_line_and_status_2(command: str, tmp_path: Path) -> None:
    done = run_s2d(command, str(tmp_path / "nowhere.yaml"), XDG_STATE_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr == f"s2d: {tmp_path}/nowhere.yaml: cannot be read: No such file or directory\n"
    )


def test_a_misspelt_key_is_one_line_and_starts_nothing(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("targets: {a: {model: m, precison: int8}}")
    done = run_s2d("serve", str(config), XDG_STATE_HOME=str(tmp_path / "state"))
    assert done.returncode == 2
    assert done.stderr == f"s2d: {config}: targets.a.precison: unknown key\n"
    assert not (tmp_path / "state").exists()


def test_stop_with_nothing_running_says_so_and_succeeds(tmp_path: Path) -> None:
    done = run_s2d("stop", XDG_STATE_HOME=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "s2d: nothing is running\n", "")


@pytest.mark.parametrize("error", [RunError("the disk is full"), ModelError("no such model")])
def test_every_error_meant_for_users_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"s2d: {error}\n"


def test_an_interrupt_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130


def test_an_error_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main()


def test_serve_hands_on_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(launcher, "serve", lambda *arguments: calls.append(arguments))
    assert RUNNER.invoke(cli.app, ["serve"]).exit_code == 0
    words = ["serve", "a.yaml", "--port", "8001", "--ready-file", "ready"]
    assert RUNNER.invoke(cli.app, words).exit_code == 0
    quickstart = ROOT / "deployments" / "quickstart.yaml"
    assert calls == [(quickstart, None, None), (Path("a.yaml"), 8001, Path("ready"))]


@pytest.mark.parametrize("port", ["0", "65536", "web"])
def test_an_impossible_port_is_refused_by_name(port: str) -> None:
    result = RUNNER.invoke(cli.app, ["serve", "--port", port])
    assert result.exit_code == 2
    assert "--port" in result.output


def test_check_refuses_what_the_static_checks_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("targets: {a: {model: m}, b: {model: m}}")
    found: list[str] = []
    fake_module(monkeypatch, "s2d_ray.serve.checks", check_config=lambda config: found)
    result = RUNNER.invoke(cli.app, ["check", str(config)])
    assert result.exit_code == 0
    assert "targets: a, b" in result.stdout
    found += ["targets.a.model: not there", "targets.b.model: not there"]
    result = RUNNER.invoke(cli.app, ["check", str(config)])
    assert isinstance(result.exception, cli.ConfigError)
    assert result.exception.message.splitlines() == found


def test_check_tells_what_each_change_from_another_config_restarts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("targets: {a: {model: m}}")
    new.write_text("targets: {a: {model: m, num_replicas: 2, max_waiting: 3}}")
    fake_module(monkeypatch, "s2d_ray.serve.checks", check_config=lambda config: [])
    told = RUNNER.invoke(cli.app, ["check", "--diff", str(old), str(new)]).stdout.splitlines()[1:]
    assert [line.partition(";")[0] for line in told] == [
        "targets.a.max_waiting: application target-a: restart",
        "targets.a.num_replicas: application target-a: in place",
        "targets.a.num_replicas: application router: live",
    ]
    told = RUNNER.invoke(cli.app, ["check", "--diff", str(new), str(new)]).stdout.splitlines()[1:]
    assert told == ["nothing changes"]


def test_chat_hands_on_every_option_and_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run_chat(*arguments: Any, **options: Any) -> int:
        calls.append((arguments, options))
        return 3

    fake_module(monkeypatch, "s2d_ray.chat", run_chat=run_chat)
    words = "chat Hello --url http://a --model m --system s --temperature 0 --max-tokens 5 --seed 7"
    words += " --mode force --exit-thresholds 0.5,0.25 --stop-threshold 0.1 --max-proposal 0 --json"
    assert RUNNER.invoke(cli.app, words.split()).exit_code == 3
    assert RUNNER.invoke(cli.app, ["chat"]).exit_code == 3
    given, default = calls
    assert given == (
        ("http://a", "m", "Hello"),
        {
            "system": "s",
            "temperature": 0.0,
            "max_tokens": 5,
            "seed": 7,
            "mode": "force",
            "exit_thresholds": (0.5, 0.25),
            "stop_threshold": 0.1,
            "max_proposal": 0,
            "json_output": True,
        },
    )
    assert default[0] == ("http://127.0.0.1:8000", None, None)
    assert set(default[1].values()) == {None, False}


@pytest.mark.parametrize("text", ["", "high", "0.5,", "0.5,2", "-0.1", "nan"])
def test_thresholds_that_are_not_probabilities_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        cli.parse_thresholds(text)


def test_models_hands_on_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = typer.Typer()

    @inner.command()
    def pull(name: str, force: bool = False) -> None:
        typer.echo(f"pulled {name} {force}")

    @inner.command()
    def other() -> None: ...

    fake_module(monkeypatch, "s2d_ray.models_cli", models_app=inner)
    result = RUNNER.invoke(cli.app, ["models", "pull", "a", "--force"])
    assert result.stdout == "pulled a True\n"
    assert "pull" in RUNNER.invoke(cli.app, ["models", "--help"]).stdout


@pytest.mark.parametrize(("status", "raises"), [(0, False), (1, False), (130, True)])
def test_bench_engine_hands_on_its_words_and_its_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: int, raises: bool
) -> None:
    """By default the quickstart; an interrupt is one line."""
    calls: list[tuple[Any, ...]] = []

    def run(settings: tuple[Any, ...]) -> int:
        calls.append(settings)
        if raises:
            raise KeyboardInterrupt
        return status

    environment = contextlib.nullcontext(tmp_path)
    fake_module(monkeypatch, "s2d_ray.serve.lone_draft", own_environment=lambda: environment)
    fake_module(monkeypatch, "s2d_ray.bench.engine", Settings=lambda *given: given, run=run)
    words = ["bench", "engine", "--quick", "--out", "there", "--seed", "7"]
    result = RUNNER.invoke(cli.app, words)
    quickstart = load_config(ROOT / "deployments" / "quickstart.yaml")
    assert calls == [(quickstart, True, False, Path("there"), 7, tmp_path)]
    assert result.exit_code == status
    assert result.stderr == ("s2d: interrupted\n" if raises else "")


def test_the_launchers_token_is_private_and_no_other_ray_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"RAY_ADDRESS": "elsewhere:6379", "RAY_AUTH_TOKEN": "known"})
    own_ray.set_environment(tmp_path)
    token = tmp_path / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(token)
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & set(os.environ)


def test_a_folder_too_deep_for_sockets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setattr(own_ray.tempfile, "tempdir", str(deep))
    with pytest.raises(RunError, match="TMPDIR"):
        own_ray.make_temp_dir()
    assert list(deep.iterdir()) == []


def test_an_open_api_is_warned_of_at_the_start_and_again_and_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal clock_s
        clock_s += seconds
        if clock_s > 2.5 * launcher.WARN_EVERY_S:
            raise launcher.Stop

    monkeypatch.setattr(launcher.time, "sleep", sleep)
    monkeypatch.setattr(launcher.time, "monotonic", lambda: clock_s)
    for http, times in [
        (HttpConfig(), 0),
        (HttpConfig(host="0.0.0.0", allow_unauthenticated=True), 3),
        (HttpConfig(allow_unauthenticated=True), 0),
    ]:
        clock_s = 0.0
        with pytest.raises(launcher.Stop):
            launcher.watch(launcher.warning_of(http), lambda: None)
        assert capsys.readouterr().out.count("WARNING: whoever reaches 0.0.0.0:8000") == times


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_the_url_is_one_that_this_machine_reaches(host: str, url: str) -> None:
    assert launcher.url_of(HttpConfig(allow_unauthenticated=True, host=host)) == url


@pytest.mark.parametrize("on_path", [True, False])
def test_the_greeting_names_url_curl_chat_and_stop(
    monkeypatch: pytest.MonkeyPatch, on_path: bool
) -> None:
    """The commands can be pasted: with their folder, where that is not on the path."""
    monkeypatch.setattr(launcher.shutil, "which", lambda name: name if on_path else None)
    monkeypatch.setattr(launcher.sys, "argv", [os.path.abspath(".venv/bin/s2d")])
    s2d = "s2d" if on_path else ".venv/bin/s2d"
    text = launcher.greeting("http://127.0.0.1:8001", "small", asks_for_key=False)
    for part in (
        "ready at http://127.0.0.1:8001",
        "curl http",
        f"{s2d} chat --url",
        f"`{s2d} stop`",
    ):
        assert part in text
    assert '"model": "small"' in text
    assert "S2D_API_KEY" not in text
    with_key = launcher.greeting("http://127.0.0.1:8001", "small", asks_for_key=True)
    assert '-H "authorization: Bearer $S2D_API_KEY"' in with_key


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["corpus", "--target", "t", "--out", "o", "--temperatures", "0,x"], "--temperatures"),
        (["corpus", "--target", "t", "--out", "o", "--temperatures", "-1"], "--temperatures"),
        (["corpus", "--target", "t", "--out", "o", "--top", "21"], "--top"),
        (["train", "--corpus", "c", "--out", "o", "--exits", "4,2"], "--exits"),
        (["train", "--corpus", "c", "--out", "o", "--exits", "two"], "--exits"),
        (["train", "--corpus", "c", "--out", "o", "--trunk", "half"], "--trunk"),
        (["train", "--corpus", "c", "--out", "o", "--exit-weights", "a"], "--exit-weights"),
        (["evaluate-draft", "--draft", "d", "--out", "o"], "--corpus"),
    ],
)
def test_wrong_words_about_training_name_the_option(words: list[str], reason: str) -> None:
    """Before anything is loaded."""
    result = RUNNER.invoke(cli.app, words)
    assert result.exit_code == 2
    assert reason in result.output
