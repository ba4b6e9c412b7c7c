"""API keys: how one is made, what is kept of it, and whose a request's key is.

A key is `s2d-ID-SECRET` with 256 random bits of secret. Kept are its id and a salted SHA-256 of the
secret. A slow hash would buy nothing: it slows down guessing, and nobody guesses 256 bits. The id
is no secret; it picks the one stored hash that is compared, in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from s2d_ray.errors import Forbidden, Unauthorized

ID_BYTES, SALT_BYTES, SECRET_BYTES = 6, 16, 32
_BEARER = re.compile(r"bearer\s+s2d-([0-9a-f]{12})-([0-9a-f]{64})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class StoredKey:
    """What is kept of a key. salt, sha256: hexadecimal. expires_s: Unix seconds, None for never."""

    id: str
    salt: str
    sha256: str
    expires_s: float | None = None
    revoked: bool = False


@dataclass(frozen=True)
class Caller:
    """Whose key a request carries. tenant: None for an operator.

    targets, modes: what the tenant may use; None: all.
    """

    name: str
    key_id: str
    is_operator: bool = False
    targets: frozenset[str] | None = None
    modes: frozenset[str] | None = None

    def check_tenant(self) -> None:
        """Raise Forbidden if the key is an operator's."""
        if self.is_operator:
            raise Forbidden("This route needs the key of a tenant", code="tenant_key_needed")

    def check_target(self, target: str, field: str | None = "model") -> None:
        """Raise Forbidden if the caller may not use this target."""
        self.check_tenant()
        if self.targets is not None and target not in self.targets:
            names = ", ".join(sorted(self.targets)) or "none"
            raise Forbidden(
                f"This key may not use the model {target!r}; it may use: {names}",
                field,
                "model_not_allowed",
            )

    def check_mode(self, mode: str) -> None:
        """Raise Forbidden if the caller may not speculate in this mode."""
        if self.modes is not None and mode not in self.modes:
            names = ", ".join(sorted(self.modes)) or "none"
            raise Forbidden(
                f"This key may not use the speculation mode {mode!r}; it may use: {names}",
                "s2d.mode",
                "mode_not_allowed",
            )

    def check_operator(self) -> None:
        """Raise Forbidden if the key is not an operator's."""
        if not self.is_operator:
            raise Forbidden("This route needs the key of an operator", code="operator_key_needed")


@dataclass(frozen=True)
class KeyTable:
    """All keys by id, each with its owner. `version` names what it was made from."""

    version: str
    keys: Mapping[str, tuple[StoredKey, Caller]]

    def caller_of(self, authorization: str | None, now_s: float) -> Caller:
        """Whose key the header `Authorization` carries. now_s: Unix seconds.

        Raises Unauthorized, which says nothing of the key itself.
        """
        if not authorization:
            raise _unauthorized("Send an API key as 'Authorization: Bearer KEY'", "missing_api_key")
        match = _BEARER.fullmatch(authorization)
        entry = self.keys.get(match[1].lower()) if match else None
        if match is None or entry is None:
            raise _unauthorized("The API key is not valid", "invalid_api_key")
        stored, caller = entry
        if not hmac.compare_digest(digest(match[2].lower(), stored.salt), stored.sha256):
            raise _unauthorized("The API key is not valid", "invalid_api_key")
        if stored.revoked:
            raise _unauthorized("The API key was revoked", "revoked_api_key")
        if stored.expires_s is not None and now_s >= stored.expires_s:
            raise _unauthorized("The API key has expired", "expired_api_key")
        return caller


def make_key(id_bytes: bytes, salt: bytes, secret: bytes) -> tuple[str, StoredKey]:
    """A key from random bytes, and what is to be kept of it."""
    text = f"s2d-{id_bytes.hex()}-{secret.hex()}"
    return text, StoredKey(id_bytes.hex(), salt.hex(), digest(secret.hex(), salt.hex()))


def digest(secret: str, salt: str) -> str:
    """SHA-256 of salt and secret, hexadecimal."""
    return hashlib.sha256(f"{salt}:{secret}".encode("ascii")).hexdigest()


def _unauthorized(message: str, code: str) -> Unauthorized:
    return Unauthorized(message, code=code, headers={"www-authenticate": "Bearer"})
