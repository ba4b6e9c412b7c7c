"""The chat client against a real server with a scripted backend."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from s2d_ray.chat import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, run_chat
from s2d_ray.engine.messages import Delta, Mode, Refused, Started, TokenTrace
from tests.fakes_http import FINISHED, HANG, TEXT, TRACED_SCRIPT, FakeBackend, app_over, serving

SUMMARY = "4 tokens, "
LEGEND = "written by target 50%, 4 layers 25%, 8 layers 25%; seed 5"


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(TRACED_SCRIPT)


@pytest.fixture
def url(backend: FakeBackend) -> Iterator[str]:
    with serving(app_over(backend)) as found:
        yield found


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored; here Ctrl-C must mean Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def type_lines(monkeypatch: pytest.MonkeyPatch, lines: Sequence[str]) -> None:
    """Make `input` return `lines`, then Ctrl-D."""
    left = list(lines)

    def fake_input(prompt: str = "") -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    monkeypatch.setattr("builtins.input", fake_input)


def interrupt_at_hang(backend: FakeBackend) -> None:
    """Press Ctrl-C once, when the backend has fallen silent; it will not do so again."""
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        backend.hanging.wait(30)
        backend.script = TRACED_SCRIPT
        # The client may still be taking in the text before the silence.
        backend.closed.wait(2)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=press).start()


def test_an_answer_is_printed_with_a_summary_and_no_colours_in_a_pipe(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_chat(url, "tiny", "hi", seed=5) == EXIT_OK
    text, summary = capsys.readouterr().out.splitlines()
    assert text == TEXT
    assert summary.startswith(SUMMARY)
    assert " tokens/s, mean accepted length 2.00; " in summary
    assert summary.endswith(LEGEND)


def test_a_terminal_sees_each_author_in_its_own_colour_and_the_target_plain(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    run_chat(url, "tiny", "hi", seed=5)
    text, summary = capsys.readouterr().out.splitlines()
    assert text == "Pa\x1b[32mris\x1b[0m\x1b[36m é\x1b[0m!"
    assert "\x1b[32m4 layers 25%\x1b[0m" in summary
    assert "\x1b[36m8 layers 25%\x1b[0m" in summary


def test_json_is_one_object_with_text_usage_speculation_and_seconds(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_chat(url, None, "hi", seed=5, json_output=True) == EXIT_OK
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["text"], shown["finish_reason"]) == ("tiny", TEXT, "stop")
    assert shown["usage"]["completion_tokens"] == 4
    assert shown["seconds"] > 0
    assert shown["s2d"]["seed"] == 5
    assert shown["s2d"]["mean_accepted_length"] == 2.0
    assert [token["drafted_by"] for token in shown["s2d"]["tokens"]] == [None, 4, 8, None]


def test_options_reach_the_server_and_absent_ones_are_left_to_it(
    url: str, backend: FakeBackend
) -> None:
    run_chat(
        url,
        "tiny-int8",
        "hi",
        system="be brief",
        temperature=0.5,
        max_tokens=3,
        seed=2**53 - 1,
        mode="force",
        exit_thresholds=(1.0,),
        stop_threshold=0.5,
        max_proposal=2,
    )
    run_chat(url, "tiny", "hi")
    (target, request), (_, plain) = backend.requests
    assert target == "tiny-int8"
    assert request.prompt.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
    )
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.5, 3)
    assert (request.sampling.seed, request.mode) == (2**53 - 1, Mode.FORCE)
    assert (request.plan.exit_thresholds, request.plan.stop_threshold) == ((1.0,), 0.5)
    assert request.plan.max_proposal == 2
    assert (plain.sampling.temperature, plain.mode, plain.plan.max_proposal) == (1.0, Mode.AUTO, 6)


@pytest.mark.parametrize("end", [[], [""]])
def test_a_loop_keeps_its_history_until_an_empty_line_or_ctrl_d(
    end: list[str], url: str, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    type_lines(monkeypatch, ["one", "two", *end])
    assert run_chat(url, None, None, system="be brief") == EXIT_OK
    (_, first), (_, second) = backend.requests
    assert [message["content"] for message in first.prompt.messages] == ["be brief", "one"]
    assert [message["content"] for message in second.prompt.messages] == [
        "be brief",
        "one",
        TEXT,
        "two",
    ]


def test_a_refused_question_leaves_the_loop_and_its_history_as_they_were(
    url: str,
    backend: FakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    backend.script = [Refused(400, "too long", "messages")]
    type_lines(monkeypatch, ["one", "two"])
    assert run_chat(url, "tiny", None) == EXIT_OK
    assert capsys.readouterr().err.count("too long") == 2
    assert backend.requests[1][1].prompt.messages == ({"role": "user", "content": "two"},)


def test_ctrl_c_stops_the_answer_and_frees_the_server(
    url: str, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.script = [*TRACED_SCRIPT[:-1], HANG]
    interrupt_at_hang(backend)
    assert run_chat(url, "tiny", "hi", seed=5) == EXIT_INTERRUPTED
    assert backend.closed.wait(30)
    text, summary = capsys.readouterr().out.splitlines()
    assert text == TEXT
    assert "mean accepted length" not in summary
    assert summary.endswith(LEGEND)


def test_ctrl_c_in_a_loop_keeps_what_was_said_and_goes_on(
    url: str, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.script = [*TRACED_SCRIPT[:-1], HANG]
    interrupt_at_hang(backend)
    type_lines(monkeypatch, ["one", "two"])
    assert run_chat(url, "tiny", None) == EXIT_OK
    said = [message["content"] for message in backend.requests[1][1].prompt.messages]
    assert said == ["one", TEXT, "two"]


def test_text_that_no_single_token_wrote_is_printed_once_and_harmlessly(
    url: str, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    half = TokenTrace(1, "\ufffd", 4, 0.5, 1)
    escape = "\x1b]52;c;x\x07"
    backend.script = [
        Started(1),
        Delta("", (half,)),
        Delta("é", (half,)),
        Delta(escape, (TokenTrace(2, escape, None, None, 2),)),
        FINISHED,
    ]
    run_chat(url, "tiny", "hi")
    assert capsys.readouterr().out.splitlines()[0] == "é\ufffd]52;c;x\ufffd"


def test_long_answers_and_markup_are_printed_as_they_are(
    url: str, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "[bold] :smile: 1.5  " + "word " * 100 + "\n\n  end"
    backend.script = [Started(1), Delta(text, (TokenTrace(1, text, None, None, 1),)), FINISHED]
    run_chat(url, "tiny", "hi")
    assert capsys.readouterr().out.startswith(text + "\n")


@pytest.mark.parametrize("model", [None, "tiny"])
def test_no_server_is_one_line_with_the_fix(
    model: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert run_chat(url, model, "hi") == EXIT_FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert url in line
    assert "s2d serve" in line


@pytest.mark.parametrize("url", ["localhost:8000", "http://[::1", "ftp://127.0.0.1"])
def test_what_is_no_url_is_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat(url, "tiny", "hi") == EXIT_FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert url in line


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (Refused(400, "9 tokens are too many", "messages"), "HTTP 400: 9 tokens are too many"),
        (ValueError("secret"), "HTTP 500: Internal error"),
    ],
)
def test_a_refusal_is_one_line(
    failure: Any, line: str, url: str, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.script = [failure]
    assert run_chat(url, "tiny", "hi", json_output=True) == EXIT_FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert line in captured.err
    assert captured.err.count("\n") == 1


def test_an_error_in_the_stream_is_told_after_the_text(
    url: str, backend: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.script = [*TRACED_SCRIPT[:-1], Refused(503, "the replica is gone")]
    assert run_chat(url, "tiny", "hi", seed=5) == EXIT_FAILED
    captured = capsys.readouterr()
    assert captured.out.startswith(TEXT + "\n")
    assert captured.err == "the server gave up: the replica is gone\n"


def test_json_needs_a_prompt(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_chat(url, "tiny", None, json_output=True) == EXIT_FAILED
    assert "prompt" in capsys.readouterr().err


def test_the_key_in_the_environment_is_sent_with_every_request(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app, seen = app_over(backend), []

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"]).get(b"authorization"))
        await app(scope, receive, send)

    with serving(watching) as url:  # type: ignore[arg-type]
        assert run_chat(url, None, "hi") == EXIT_OK
        assert set(seen) == {None}
        monkeypatch.setenv("S2D_API_KEY", "secret")
        seen.clear()
        assert run_chat(url, None, "hi") == EXIT_OK
    assert seen == [b"Bearer secret"] * 2
    assert "secret" not in "".join(capsys.readouterr())
