"""Pictures of the playground for docs/: `python -m tests.screenshots --url http://127.0.0.1:8000`.

Without `--url` the service is played (`tests/played.py`), and so are all figures in the pictures.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from s2d_ray.config import HttpConfig
from s2d_ray.serve.ingress import build_app
from tests.browser import chromium
from tests.fakes_http import serving
from tests.played import PlayedBackend

PATIENCE_MS = 300_000
NUM_TOKENS = 96
QUESTION = "Why is the sky blue? Answer in a few sentences."
WIDE, HIGH = {"width": 1280, "height": 800}, {"width": 1280, "height": 940}
NARROW = {"width": 390, "height": 844}


def chat(page: Page) -> None:
    page.get_by_label("Your message").fill(QUESTION)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Copy").wait_for()
    guessed = page.locator(".tokens .by-exit-1, .tokens .by-exit-0")
    guessed.nth(guessed.count() // 2).hover()


def race(page: Page) -> None:
    page.get_by_role("link", name="Race").click()
    page.get_by_label("Prompt of the race").fill(QUESTION)
    page.get_by_role("button", name="Race", exact=True).click()
    page.locator("#verdict strong").wait_for()


def live(page: Page) -> None:
    page.get_by_role("link", name="Live").click()
    page.wait_for_timeout(20_000)  # a curve to be seen


def login(page: Page) -> None:
    page.get_by_role("button", name="API key").click()


SCENES: dict[str, tuple[Callable[[Page], None], dict[str, int], str]] = {
    "chat": (chat, WIDE, "light"),
    "chat-dark": (chat, WIDE, "dark"),
    "chat-narrow": (chat, NARROW, "light"),
    "race": (race, HIGH, "light"),
    "live": (live, WIDE, "light"),
    "login": (login, NARROW, "dark"),
}


def take(browser: Browser, url: str, name: str, folder: Path) -> None:
    """Play one scene and keep its picture."""
    scene, size, scheme = SCENES[name]
    page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    page.locator("select:enabled").wait_for(state="attached")
    page.get_by_label("Longest answer, tokens").evaluate(f"(field) => (field.value = {NUM_TOKENS})")
    scene(page)
    path = folder / f"playground-{name}.png"
    page.screenshot(path=path)
    page.close()
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third of its size
    print(path, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running service; without it one is played")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--only", nargs="*", choices=SCENES, default=list(SCENES))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    app = build_app(PlayedBackend(token_s=0.03), HttpConfig())
    played = contextlib.nullcontext(options.url) if options.url else serving(app)
    with played as url, chromium() as browser:
        for name in options.only:
            take(browser, url, name, options.out)


if __name__ == "__main__":
    main()
