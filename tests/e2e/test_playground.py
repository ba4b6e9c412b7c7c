"""The playground in a real Chromium, over a real socket, with a scripted backend."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import pytest
from fastapi import FastAPI
from playwright.sync_api import Page, ViewportSize, expect

from s2d_ray.config import HttpConfig
from s2d_ray.engine.messages import Delta, GenerateRequest, Mode, Started, TokenTrace
from s2d_ray.errors import Forbidden, RateLimited, RequestError, Unavailable
from s2d_ray.serve.backend import Health, TargetHealth
from s2d_ray.serve.ingress import build_app
from tests.browser import CHROMIUM, chromium
from tests.colours import contrast
from tests.fakes_http import (
    FINISHED,
    HANG,
    TEXT,
    TRACED,
    TRACED_SCRIPT,
    FakeBackend,
    FakeGate,
    Script,
    app_over,
    serving,
)

PATIENCE_MS = 60_000
REFUSED = "Failed to load resource"
"""What Chromium itself says of any answer that is no success."""
NARROW, USUAL = ViewportSize(width=390, height=844), ViewportSize(width=1280, height=720)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
HEALTH = Health(
    True,
    False,
    {"tiny": TargetHealth(True, True, "closed", {"queue_depth": 3.0, "replicas": 2.0})},
    {"alive": True, "exit_layers": (4, 8), "counters": {"busy_microseconds": 0, "sessions": 5}},
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    """One tab for all tests, since a new one costs a second of processor time."""
    expect.set_options(timeout=PATIENCE_MS)
    with chromium() as browser:
        page = browser.new_context(has_touch=True, reduced_motion="reduce").new_page()
        page.set_default_timeout(PATIENCE_MS)
        yield page


@contextlib.contextmanager
def opened(
    tab: Page,
    app: FastAPI,
    view: str = "",
    *,
    size: ViewportSize = USUAL,
    complains: bool = False,
) -> Iterator[None]:
    """The page over `app`, which must say nothing to the console and ask nobody else.

    complains: some of the app's answers are errors on purpose. Each has an origin of its own, and
    so a storage of its own.
    """
    said: list[str] = []
    asked: list[str] = []
    listeners: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: said.append(message.text),
        "pageerror": lambda error: said.append(str(error)),
        "request": lambda request: asked.append(request.url),
    }
    with serving(app) as url:
        for event, listener in listeners.items():
            tab.on(event, listener)
        tab.emulate_media(color_scheme="light")
        tab.set_viewport_size(size)
        tab.goto(f"{url}/#{view}")
        expect(tab.locator("#settings select")).to_have_count(1)
        yield
        for event, listener in listeners.items():
            tab.remove_listener(event, listener)
        tab.goto("about:blank")  # or the server would wait for its connections
    assert [text for text in said if not (complains and REFUSED in text)] == []
    assert [address for address in asked if not address.startswith(url)] == []


def backend(script: Script | Callable[[GenerateRequest], Script] = TRACED_SCRIPT) -> FakeBackend:
    return FakeBackend(script, health=HEALTH)


def send(tab: Page, prompt: str = "hi") -> None:
    expect(tab.get_by_label("Model")).to_be_enabled()
    tab.get_by_label("Your message").fill(prompt)
    tab.get_by_role("button", name="Send").click()


def figures(tab: Page) -> dict[str, str]:
    rows = tab.locator(".numbers div").all()
    return {row.locator("dt").inner_text(): row.locator("dd").inner_text() for row in rows}


# Texts


def test_an_answer_appears_token_by_token_in_the_colours_of_its_writers(tab: Page) -> None:
    gates = [threading.Event(), threading.Event()]
    script = (Started(7), TRACED[0], gates[0], TRACED[1], gates[1], TRACED[2], FINISHED)
    with opened(tab, app_over(backend(script))):
        send(tab)
        tokens = tab.locator(".conversation .tokens")
        expect(tokens).to_have_text("Pa")
        expect(tab.get_by_role("button", name="Stop")).to_be_visible()
        gates[0].set()
        expect(tokens).to_have_text("Paris é")
        gates[1].set()
        expect(tokens).to_have_text(TEXT)
        expect(tab.get_by_role("button", name="Send")).to_be_visible()
        looks = [span.get_attribute("class") for span in tokens.locator("span").all()]
        assert looks == [f"token by-{who}" for who in ("target", "exit-0", "exit-1", "target")]
        told = figures(tab)
        assert (told["accepted length"], told["tokens"]) == ("2.00", "4")
        legend = tab.locator(".legend").inner_text()
        assert legend.split("\n") == ["target 50 %", "draft, 4 layers 25 %", "draft, 8 layers 25 %"]
        expect(tab.locator("#announcer")).to_have_text(f"Answer: {TEXT}")


def test_hover_focus_and_tap_tell_confidence_threshold_and_round(tab: Page) -> None:
    with opened(tab, app_over(backend())):
        send(tab)
        spans, tooltip = tab.locator(".tokens .token"), tab.get_by_role("tooltip")
        expect(tab.get_by_role("button", name="Copy")).to_be_visible()
        expect(tooltip).to_be_hidden()
        spans.nth(1).hover()
        words = "Guessed by draft, 4 layers Confidence 0.500 Threshold 0.25 Round 1"
        assert tooltip.inner_text().split() == words.split()
        tab.mouse.move(0, 0)
        expect(tooltip).to_be_hidden()
        spans.nth(2).tap()
        expect(tooltip).to_contain_text("none: the deepest always answers")
        spans.nth(0).focus()
        assert tooltip.inner_text().split() == ["Written", "by", "target", "Round", "1"]
        assert spans.nth(0).get_attribute("aria-describedby") == "tooltip"


def test_a_text_is_shown_as_it_stands_whatever_is_in_it(tab: Page) -> None:
    evil = "<img src=x onerror=alert(1)>\n\n</p>"
    script = (Started(1), Delta(evil, (TokenTrace(1, evil, None, None, 1),)), Delta("!"), FINISHED)
    with opened(tab, app_over(backend(script))):
        tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
        send(tab, evil)
        tab.get_by_role("button", name="Copy").click()
        expect(tab.get_by_role("button", name="Copied")).to_be_visible()
        assert tab.evaluate("navigator.clipboard.readText()") == evil + "!"
        assert tab.locator(".tokens").text_content() == evil + "!"
        assert tab.locator(".question").text_content() == evil


def test_a_conversation_goes_on_and_begins_anew(tab: Page) -> None:
    asked = backend()
    with opened(tab, app_over(asked)):
        tab.get_by_label("System prompt").fill("Be brief.")
        for prompt in ("one", "two"):
            send(tab, prompt)
            expect(tab.get_by_role("button", name="Send")).to_be_visible()
            expect(tab.locator(".foot")).to_have_count(1 + (prompt == "two"))
        tab.get_by_role("button", name="New conversation").click()
        expect(tab.locator(".turn")).to_have_count(0)
        tab.get_by_role("button", name="capital of France").click()
        expect(tab.locator(".foot")).to_have_count(1)
        expect(tab.locator("main")).to_be_focused()
    messages = [
        [(message["role"], message["content"]) for message in request.prompt.messages]  # type: ignore[union-attr]
        for _, request in asked.requests
    ]
    system = ("system", "Be brief.")
    assert messages == [
        [system, ("user", "one")],
        [system, ("user", "one"), ("assistant", TEXT), ("user", "two")],
        [system, ("user", "What is the capital of France?")],
    ]


def test_the_settings_are_what_is_asked(tab: Page) -> None:
    asked = backend()
    with opened(tab, app_over(asked)):
        expect(tab.get_by_label("Model")).to_be_enabled()
        tab.get_by_label("Model").select_option("tiny-int8")
        expect(tab.get_by_label("Tree width")).to_be_disabled()
        send(tab)
        expect(tab.locator(".foot")).to_have_count(1)
        tab.get_by_label("Temperature").fill("0.25")
        tab.get_by_label("Longest answer, tokens").fill("9")
        tab.get_by_role("button", name="Keep seed").click()
        tab.get_by_text("force", exact=True).click()
        tab.get_by_label("Set the plan by hand").check()
        tab.get_by_label("Exit threshold, 4 layers").fill("0.9")
        tab.get_by_label("Stop threshold").fill("0.2")
        tab.get_by_label("Longest proposal").fill("7")
        tab.get_by_label("Tree width").fill("3")
        send(tab)
        expect(tab.locator(".foot")).to_have_count(2)
    (target, first), (_, second) = asked.requests
    assert target == "tiny-int8"
    assert (first.mode, first.plan.max_proposal, first.fixed) == (Mode.AUTO, 6, frozenset())
    assert second.sampling == replace(first.sampling, temperature=0.25, max_tokens=9)
    assert second.mode is Mode.FORCE
    assert second.plan == replace(
        first.plan, exit_thresholds=(0.9,), stop_threshold=0.2, max_proposal=7, tree_width=3
    )


def test_the_keyboard_alone_is_enough(tab: Page) -> None:
    asked = backend(lambda _: (Started(7), *TRACED, HANG))
    with opened(tab, app_over(asked)):
        expect(tab.get_by_label("Model")).to_be_enabled()
        for key in ("a", "Shift+Enter", "b", "Enter"):
            tab.keyboard.press(key)
        expect(tab.locator(".question")).to_have_text("a\nb")
        expect(tab.locator(".tokens")).to_have_text(TEXT)
        tab.keyboard.press("Escape")
        assert asked.closed.wait(PATIENCE_MS / 1000)
        expect(tab.locator(".foot")).to_contain_text("stopped")
        for _ in range(3):  # back over Copy and the seed to the text
            tab.keyboard.press("Shift+Tab")
        tab.keyboard.press("ArrowRight")
        expect(tab.locator(":focus")).to_have_text("ris")
        expect(tab.get_by_role("tooltip")).to_contain_text("draft, 4 layers")
        tab.keyboard.press("Escape")
        expect(tab.get_by_role("tooltip")).to_be_hidden()
        tab.keyboard.press("End")
        expect(tab.locator(":focus")).to_have_text("!")


# Errors


def test_a_refusal_is_told_and_can_be_tried_again(tab: Page) -> None:
    failures = {
        RequestError("temperature is too high", "temperature"): "refused.*too high.*temperature",
        ValueError("secret"): "HTTP 500.*Internal error",
        Unavailable("took too long", code="deadline"): "cannot take it now.*took too long",
    }
    scripts = iter([*((failure,) for failure in failures), TRACED_SCRIPT])
    with opened(tab, app_over(backend(lambda _: next(scripts))), complains=True):
        send(tab)
        for words in failures.values():
            expect(tab.get_by_role("alert")).to_have_text(re.compile(words, re.DOTALL))
            tab.get_by_role("button", name="Try again").click()
        expect(tab.locator(".tokens")).to_have_text(TEXT)
        expect(tab.locator(".turn")).to_have_count(1)


def test_a_target_that_starts_is_asked_again_until_it_is_there(tab: Page) -> None:
    failure = Unavailable("target 'tiny' is not deployed yet", code="not_ready")
    scripts = iter([(failure,), (failure,), TRACED_SCRIPT])
    with opened(tab, app_over(backend(lambda _: next(scripts))), complains=True):
        send(tab)
        expect(tab.locator(".answer .notice")).to_contain_text(
            "not deployed yet. Asked again in 1 s"
        )
        expect(tab.locator(".tokens")).to_have_text(TEXT)
        expect(tab.locator(".notice")).to_have_count(0)


def test_a_text_that_breaks_off_stays_and_says_why(tab: Page) -> None:
    script = (Started(1), TRACED[0], Unavailable("three replicas were lost", code="replica_lost"))
    with opened(tab, app_over(backend(script))):
        send(tab)
        expect(tab.get_by_role("alert")).to_contain_text("three replicas were lost")
        expect(tab.locator(".tokens")).to_have_text("Pa")


def test_a_server_that_is_gone_is_told_everywhere(tab: Page) -> None:
    with contextlib.ExitStack() as server:
        tab.goto(server.enter_context(serving(app_over(backend()))))
        expect(tab.get_by_label("Model")).to_be_enabled()
        tab.context.set_offline(True)
        send(tab)
        expect(tab.get_by_role("alert")).to_contain_text("No answer")
        tab.get_by_role("link", name="Live").click()
        expect(tab.locator("#live .notice")).to_contain_text("does not answer")
        expect(tab.locator("#service")).to_have_text("no answer")
        tab.context.set_offline(False)
        expect(tab.locator("#service")).to_have_text("ok")
        tab.goto("about:blank")


# Keys


def test_a_key_is_asked_for_kept_in_the_tab_and_its_refusals_are_told(tab: Page) -> None:
    gate = FakeGate()
    app = build_app(backend(), HttpConfig(), gate)
    with opened(tab, app, complains=True):
        dialog = tab.get_by_role("dialog", name="API key")
        expect(dialog).to_contain_text("The API key is not valid")
        for key in ("wrong", FakeGate.KEY):
            dialog.get_by_label("Key", exact=True).fill(key)
            tab.keyboard.press("Enter")
            expect(dialog).to_be_visible(visible=key == "wrong")
        expect(tab.get_by_role("button", name="API key set")).to_be_visible()
        kept = tab.evaluate("[{...sessionStorage}, {...localStorage}, document.cookie]")
        assert kept == [{"s2d-key": FakeGate.KEY}, {}, ""]
        gate.refusal = RateLimited("The tenant is at its limit", headers={"retry-after": "7"})
        send(tab)
        expect(tab.get_by_role("alert")).to_contain_text("at its limit (again in 7 s)")
        gate.refusal = Forbidden("This key may not use the mode 'auto'", "s2d.mode")
        tab.get_by_role("button", name="Try again").click()
        expect(tab.get_by_role("alert")).to_contain_text("This key may not do that")
        gate.refusal = None
        tab.get_by_role("button", name="Try again").click()
        expect(tab.locator(".tokens")).to_have_text(TEXT)
        tab.get_by_role("button", name="API key set").click()
        tab.get_by_role("button", name="Forget the key").click()
        expect(dialog).to_contain_text("The API key is not valid")


# Race


def test_a_race_is_of_one_seed_and_says_that_the_texts_are_equal(tab: Page) -> None:
    asked = backend()
    with opened(tab, app_over(asked), "race"):
        expect(tab.get_by_label("Model")).to_be_enabled()
        for order in ("one after the other", "at once"):
            tab.get_by_label(order).check()
            tab.get_by_role("button", name="Race").click()
            expect(tab.locator("#verdict")).to_contain_text("✓ Equal texts")
            assert tab.locator(".lane .tokens").all_text_contents() == [TEXT, TEXT]
            assert tab.locator(".is-other").count() == 0
            tab.locator("#verdict").evaluate("(verdict) => verdict.replaceChildren()")
    requests = [request for _, request in asked.requests]
    assert [request.mode for request in requests[:2]] == [Mode.OFF, Mode.FORCE]
    for first, second in (requests[:2], requests[2:]):
        assert {first.mode, second.mode} == {Mode.OFF, Mode.FORCE}
        assert (first.sampling, first.prompt) == (second.sampling, second.prompt)
    salts = {request.cache_salt for request in requests}
    assert len(salts) == 4, "none may read another's prompt from a cache"


def test_a_race_shows_where_texts_part(tab: Page) -> None:
    def script(request: GenerateRequest) -> Script:
        other = Delta("?", (TokenTrace(15, "?", None, None, 2),))
        return (Started(7), *TRACED[:2], TRACED[2] if request.mode is Mode.OFF else other, FINISHED)

    with opened(tab, app_over(backend(script)), "race"):
        expect(tab.get_by_label("Model")).to_be_enabled()
        tab.get_by_role("button", name="Race").click()
        expect(tab.locator("#verdict")).to_contain_text("✗ The texts differ from character 8 on")
        assert tab.locator(".is-other").all_inner_texts() == ["!", "?"]


# Live


def test_the_live_page_looks_while_it_is_seen(tab: Page) -> None:
    asked = backend()
    with opened(tab, app_over(asked), "live"):
        card = tab.locator(".card", has_text="tiny")
        expect(card).to_contain_text(re.compile("queue depth.*3.*replicas.*2", re.DOTALL))
        counters = {"busy_microseconds": 10**9, "sessions": 6}
        asked.state = replace(HEALTH, draft={**HEALTH.draft, "counters": counters})
        draft = tab.locator(".card", has_text="shared by all targets")
        expect(draft).to_contain_text(re.compile("utilisation.*100 %.*6", re.DOTALL))
        asked.state = replace(HEALTH, degraded=True, draft={"alive": False})
        expect(tab.locator("#service")).to_have_text("no draft")
        expect(draft).to_contain_text("decode plainly")
        looks: list[str] = []
        tab.get_by_role("link", name="Chat").click()
        expect(card).to_be_hidden()
        tab.on("request", lambda request: looks.append(request.url))
        tab.wait_for_timeout(1_500)
        assert looks == []


def test_rates_are_differences_of_what_one_process_counts(tab: Page) -> None:
    code = """async ([before, now]) => {
        const { draftUtilisation, draftSpeed } = await import("/playground/rates.js");
        const look = ([at, counters]) => ({ at, health: { draft: { counters } } });
        const both = [before && look(before), look(now)];
        return [draftUtilisation(...both), draftSpeed(...both)];
    }"""
    then = [1_000, {"busy_microseconds": 5_000_000, "drafted_by_2": 10, "drafted_by_4": 5}]
    later = [3_000, {"busy_microseconds": 6_500_000, "drafted_by_2": 50, "drafted_by_4": 25}]
    with opened(tab, app_over(backend())):
        assert tab.evaluate(code, [then, later]) == [0.75, 30]
        assert tab.evaluate(code, [None, later]) == [None, None]
        assert tab.evaluate(code, [[3_000, later[1]], [4_000, then[1]]]) == [None, None]


# Looks


NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, textarea, [role=img]")]
    .filter((element) => element.checkVisibility())
    .filter((element) => {
        const labels = [...(element.labels ?? [])].map((label) => label.textContent).join("");
        return !(labels + element.textContent + (element.ariaLabel ?? "")).trim();
    })
    .map((element) => element.outerHTML)"""
COLOURS = """() => {
    const styleOf = (element) => getComputedStyle(element);
    const ground = (element) => {
        const own = styleOf(element).backgroundColor;
        return own.endsWith(", 0)") && element.parentElement ? ground(element.parentElement) : own;
    };
    return [...document.querySelectorAll("body *")]
        .filter((element) => element.checkVisibility() && !element.closest(":disabled, svg"))
        .filter((element) => [...element.childNodes].some((node) => node.data?.trim()))
        .map((element) => [element.outerHTML, styleOf(element).color, ground(element)]);
}"""
LOOKS = """() => ["tier-0", "exit-0", "exit-1", "exit-2", "exit-3"].map((name) => {
    const span = document.querySelector(".tokens").appendChild(document.createElement("span"));
    span.className = `token by-${name}`;
    const style = getComputedStyle(span);
    const { textDecorationColor, textDecorationStyle } = style;
    const surface = getComputedStyle(span.closest(".answer")).backgroundColor;
    const { color, backgroundColor } = style;
    span.remove();
    return [color, backgroundColor, textDecorationColor, textDecorationStyle, surface];
})"""


def test_everything_has_a_name_and_contrast(tab: Page) -> None:
    """Text 4.5 to 1, lines below tokens 3 to 1, as WCAG 2.2 AA asks; no writer by colour alone."""
    with opened(tab, app_over(backend())):
        send(tab)
        expect(tab.locator(".foot")).to_be_visible()
        for scheme, view in product(SCHEMES, ("Race", "Live", "Chat")):
            tab.emulate_media(color_scheme=scheme)
            tab.get_by_role("link", name=view).click()
            expect(tab.locator("nav [aria-current=page]")).to_have_text(view)
            assert tab.evaluate(NAMELESS) == []
            seen = tab.evaluate(COLOURS)
            assert len(seen) > 10
            assert [text for text, front, back in seen if contrast(front, back) < 4.5] == []
        assert tab.locator("h1").count() == 1
        assert tab.locator("main, nav, header").count() == 3
        for scheme in SCHEMES:
            tab.emulate_media(color_scheme=scheme)
            looks = tab.evaluate(LOOKS)
            for text, tint, line, _, surface in looks:
                assert contrast(text, tint) >= 4.5
                assert min(contrast(line, tint), contrast(line, surface)) >= 3
            assert len({style for *_, style, _ in looks}) == len(looks) == 5


def test_a_narrow_screen_never_scrolls_sideways(tab: Page) -> None:
    asked = backend(
        (Started(1), Delta("w" * 200, (TokenTrace(1, "w" * 200, 4, 0.5, 1),)), FINISHED)
    )
    with opened(tab, app_over(asked), size=NARROW):
        send(tab, "long" * 50)
        expect(tab.locator(".foot")).to_be_visible()
        tab.locator(".tokens .token").tap()
        for view, is_open in product(("Chat", "Race", "Live"), (False, True)):
            tab.get_by_role("link", name=view).click()
            if view != "Live":
                tab.locator("details").evaluate("(panel, open) => (panel.open = open)", is_open)
            if view == "Race":
                tab.get_by_role("button", name="Race").click()
                expect(tab.locator("#verdict strong")).to_be_visible()
            assert tab.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]


def test_the_theme_follows_the_system_until_another_is_chosen(tab: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(tab, app_over(backend())):
        tab.emulate_media(color_scheme="dark")
        dark = tab.evaluate(ground)
        tab.emulate_media(color_scheme="light")
        light = tab.evaluate(ground)
        assert light != dark
        tab.get_by_role("button", name="Theme: system").click()
        tab.get_by_role("button", name="Theme: light").click()
        assert tab.evaluate(ground) == dark
        tab.reload()
        expect(tab.get_by_role("button", name="Theme: dark")).to_be_visible()
        assert tab.evaluate(ground) == dark
