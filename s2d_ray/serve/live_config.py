"""The config file of a running `s2d serve`: what of a change is taken over at once, what waits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from s2d_ray.config import AppConfig, parse_config
from s2d_ray.errors import ConfigError

LIVE = ("plan", "routing", "plans", "control")
UNREAD = ("prices",)
"""Sections that no part of a running service reads."""


class LiveConfig:
    """Reads the file again whenever it is asked. The last good version stays in force."""

    def __init__(
        self,
        path: Path,
        started: AppConfig,
        check: Callable[[AppConfig], list[str]],
        report: Callable[[str], None],
    ) -> None:
        """started: what is in force. check: what is wrong with a config, beyond its form."""
        self._path = path
        self._config = started
        self._check = check
        self._report = report
        self._text: str | None = None

    def look(self) -> AppConfig | None:
        """Another config to go by from now on, None while it stays as it was.

        Reports what is wrong with a changed file, and what of it waits for the next start.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return None  # whoever replaces it is not done
        if text == self._text:
            return None
        self._text = text
        try:
            wanted = self._parse(text)
        except ConfigError as error:
            for line in (*error.message.splitlines(), f"{self._path}: the config stays as it was"):
                self._report(line)
            return None
        if wanted == self._config:
            return None
        self._config = wanted
        self._report(f"{self._path}: {', '.join(LIVE)} are taken over")
        return wanted

    def _parse(self, text: str) -> AppConfig:
        """The config in force, with the live parts of this one. Raises ConfigError."""
        written = parse_config(text, str(self._path))
        # The port may be another one by the command line.
        http = written.http.model_copy(update={"port": self._config.http.port})
        written = written.model_copy(update={"http": http})
        waiting = [
            name
            for name in AppConfig.model_fields
            if name not in LIVE + UNREAD and getattr(written, name) != getattr(self._config, name)
        ]
        if waiting:
            self._report(f"{self._path}: changes of {', '.join(waiting)} wait for the next start")
        wanted = self._config.model_copy(update={name: getattr(written, name) for name in LIVE})
        troubles = list(wanted.routing.troubles(wanted.targets)) if wanted.routing else []
        if troubles := troubles or self._check(wanted):
            raise ConfigError("\n".join(f"{self._path}: {trouble}" for trouble in troubles))
        return wanted
