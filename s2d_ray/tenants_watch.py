"""The tenants file as it changes: the last good version is in force, over restarts too."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from s2d_ray.errors import ConfigError
from s2d_ray.tenants import TenantsFile, load_tenants, parse_tenants, save_tenants

logger = logging.getLogger("ray.serve")


class WatchedTenants:
    """Reads the file again whenever it is asked, by name: a mounted Secret swaps a link.

    `version` names the contents in force. `trouble` is why a newer one is not, None if it is.
    """

    def __init__(self, path: Path, last_good: Path) -> None:
        """last_good: where the version in force is kept, for a start with a broken file.

        Raises ConfigError if neither can be used.
        """
        self._path = path
        self._last_good = last_good
        self._seen = ""
        self.trouble: str | None = None
        self.version = ""
        self.tenants = TenantsFile()
        self.look()
        if self.trouble is not None:
            trouble = self.trouble
            try:
                self.tenants, self.version = load_tenants(last_good), "last good"
            except ConfigError:
                raise ConfigError(trouble) from None

    def look(self) -> bool:
        """Whether another version is in force now."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._seen, self.trouble = "", f"{self._path}: cannot be read: {reason}"
            return False
        seen = hashlib.sha256(text.encode("utf-8")).hexdigest()
        if seen == self._seen:
            return False
        self._seen, self.trouble = seen, None
        if seen == self.version:
            return False
        try:
            self.tenants = parse_tenants(text, str(self._path))
        except ConfigError as error:
            self.trouble = error.message
            return False
        self.version = seen
        try:
            save_tenants(self._last_good, self.tenants)
        except OSError as error:  # it is in force all the same
            logger.error("the tenants in force cannot be kept: %s", error)
        return True
