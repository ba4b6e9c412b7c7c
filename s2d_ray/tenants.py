"""The tenants file: who may use the service, with which keys, and how much of it.

A YAML file of its own, since it is live: the ledger watches it, and nothing restarts. Frozen,
unknown keys refused, versioned. It holds hashes of keys, never keys. Loads no torch and no Ray.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import tempfile
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AwareDatetime, Field, model_validator

from s2d_ray.config import Section, as_written, check_section, parse_section
from s2d_ray.engine.messages import Mode
from s2d_ray.errors import ConfigError
from s2d_ray.policy.keys import (
    ID_BYTES,
    SALT_BYTES,
    SECRET_BYTES,
    Caller,
    KeyTable,
    StoredKey,
    make_key,
)
from s2d_ray.policy.limits import Limits

TENANTS_VERSION: Final = 1

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$", max_length=64)]


class KeyConfig(Section):
    """What is kept of one API key."""

    id: Hex = Field(description="The part of the key that is no secret.")
    salt: Hex = Field(description="Random digits that are hashed with the secret.")
    sha256: Hex = Field(description="SHA-256 of salt and secret.")
    expires: AwareDatetime | None = Field(None, description="When it stops to work; none: never.")
    revoked: bool = Field(False, description="It does not work any more.")

    def stored(self) -> StoredKey:
        """The same as the policy names it."""
        expires_s = self.expires.timestamp() if self.expires else None
        return StoredKey(self.id, self.salt, self.sha256, expires_s, self.revoked)


class OwnerConfig(Section):
    """Somebody with keys."""

    keys: tuple[KeyConfig, ...] = Field((), description="The keys; made by `s2d tenant`.")


class TenantConfig(OwnerConfig):
    """One tenant."""

    targets: tuple[str, ...] | None = Field(None, description="Targets it may use; none: all.")
    modes: tuple[Mode, ...] | None = Field(
        None, description="Speculation modes it may use (`auto`, `off`, `force`); none: all."
    )
    requests_per_minute: int | None = Field(None, ge=1, description="None: no limit.")
    tokens_per_minute: int | None = Field(
        None, ge=1, description="Prompt and output, reserved at admission; none: no limit."
    )
    max_running: int = Field(
        16, ge=1, description="Texts written at the same time; each choice of `n` is one."
    )
    max_waiting: int = Field(64, ge=1, description="Requests that wait beyond them; more get 429.")
    band: int = Field(
        1, ge=0, le=9, description="A lower band goes first, whatever waits in higher ones."
    )
    weight: float = Field(
        1.0, ge=0.05, le=100, description="Share of the tokens among tenants of one band that wait."
    )

    def limits(self) -> Limits:
        """The limits as the ledger names them."""
        return Limits(
            self.requests_per_minute,
            self.tokens_per_minute,
            self.max_running,
            self.max_waiting,
            self.band,
            self.weight,
        )


class TenantsFile(Section):
    """All tenants and operators."""

    version: Literal[1] = Field(TENANTS_VERSION, description="Version of this format.")
    operators: dict[Name, OwnerConfig] = Field(
        {}, description="Who may read `/metrics` and all usage, and revoke keys."
    )
    tenants: dict[Name, TenantConfig] = Field({}, description="Tenants by name.")

    @model_validator(mode="after")
    def _unique(self) -> TenantsFile:
        seen: set[str] = set()
        for _, owner in self.owners():
            for key in owner.keys:
                if key.id in seen:
                    raise ValueError(f"the key id {key.id} stands twice; ids must differ")
                seen.add(key.id)
        if twice := self.operators.keys() & self.tenants.keys():
            raise ValueError(f"{min(twice)} is an operator and a tenant; names must differ")
        return self

    def owners(self) -> Iterable[tuple[str, OwnerConfig]]:
        """Operators and tenants by name."""
        yield from self.operators.items()
        yield from self.tenants.items()

    def limits(self) -> dict[str, Limits]:
        """The limits of all tenants."""
        return {name: tenant.limits() for name, tenant in self.tenants.items()}

    def key_table(self, version: str, revoked: Collection[str] = ()) -> KeyTable:
        """All keys; `revoked` are ids that do not work any more, whatever the file says."""
        keys: dict[str, tuple[StoredKey, Caller]] = {}
        for name, owner in self.owners():
            for key in owner.keys:
                stored = key.stored()
                if key.id in revoked:
                    stored = dataclasses.replace(stored, revoked=True)
                keys[key.id] = (stored, _caller(name, key.id, owner))
        return KeyTable(version, keys)


def _caller(name: str, key_id: str, owner: OwnerConfig) -> Caller:
    if not isinstance(owner, TenantConfig):
        return Caller(name, key_id, is_operator=True)
    return Caller(
        name,
        key_id,
        targets=None if owner.targets is None else frozenset(owner.targets),
        modes=None if owner.modes is None else frozenset(mode.value for mode in owner.modes),
    )


def parse_tenants(text: str, origin: str) -> TenantsFile:
    """Parse YAML text. Raises ConfigError that names `origin`, the key and what is wrong."""
    return parse_section(TenantsFile, text, origin)


def load_tenants(path: Path) -> TenantsFile:
    """Read a tenants file. Raises ConfigError if it is missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_tenants(text, str(path))


def dump_tenants(tenants: TenantsFile) -> str:
    """The text of a tenants file: what was written, defaults and comments left out."""
    return yaml.safe_dump({"version": TENANTS_VERSION, **as_written(tenants)}, sort_keys=False)


def save_tenants(path: Path, tenants: TenantsFile) -> None:
    """Replace a tenants file at once, so that no reader sees half of it."""
    text = dump_tenants(tenants)
    descriptor, half = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:  # mode 0600
            file.write(text)
        os.replace(half, path)
    except BaseException:
        os.unlink(half)
        raise


def with_owner(
    tenants: TenantsFile, name: str, fields: Mapping[str, Any], *, is_operator: bool
) -> TenantsFile:
    """The file with one more operator or tenant, who has no key yet.

    Raises ConfigError if the name is taken, or a field is wrong.
    """
    if name in dict(tenants.owners()):
        raise ConfigError(f"{name!r} is there already; `s2d tenant rotate` makes it another key")
    tree = as_written(tenants)
    tree.setdefault("operators" if is_operator else "tenants", {})[name] = dict(fields)
    return check_section(TenantsFile, tree, name)


def rotated(
    tenants: TenantsFile, name: str, now: datetime, overlap: timedelta
) -> tuple[TenantsFile, str]:
    """The file with one more key of an owner, and that key; older ones expire after `overlap`.

    Raises ConfigError if there is no such owner.
    """
    owner = dict(tenants.owners()).get(name)
    if owner is None:
        raise ConfigError(f"there is no tenant {name!r}; `s2d tenant add {name}` makes one")
    end = now + overlap
    older = tuple(
        key.model_copy(update={"expires": end}) if key.expires is None or key.expires > end else key
        for key in owner.keys
        if not key.revoked and (key.expires is None or key.expires > now)
    )
    text, stored = make_key(
        secrets.token_bytes(ID_BYTES),
        secrets.token_bytes(SALT_BYTES),
        secrets.token_bytes(SECRET_BYTES),
    )
    newest = KeyConfig(id=stored.id, salt=stored.salt, sha256=stored.sha256)
    return _replaced(tenants, name, _with_keys(owner, (*older, newest))), text


def revoked(tenants: TenantsFile, key_id: str) -> TenantsFile:
    """The file with one key revoked. Raises ConfigError if there is no such key."""
    for name, owner in tenants.owners():
        if any(key.id == key_id for key in owner.keys):
            keys = tuple(
                key.model_copy(update={"revoked": True}) if key.id == key_id else key
                for key in owner.keys
            )
            return _replaced(tenants, name, _with_keys(owner, keys))
    raise ConfigError(f"there is no key {key_id!r}; `s2d tenant list` shows the ids")


def _with_keys(owner: OwnerConfig, keys: tuple[KeyConfig, ...]) -> OwnerConfig:
    return owner.model_copy(update={"keys": keys})


def _replaced(tenants: TenantsFile, name: str, owner: OwnerConfig) -> TenantsFile:
    """The file with another version of an owner it has."""
    section = "tenants" if name in tenants.tenants else "operators"
    return tenants.model_copy(update={section: {**getattr(tenants, section), name: owner}})
