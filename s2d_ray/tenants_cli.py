"""`s2d tenant`: who may use the service, kept in a tenants file.

A new key is shown once, on standard output, and kept nowhere. The file may be watched by a running
service, or be what a mounted Secret is made from.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from s2d_ray.errors import ConfigError, RunError
from s2d_ray.tenants import (
    KeyConfig,
    TenantConfig,
    TenantsFile,
    load_tenants,
    revoked,
    rotated,
    save_tenants,
    with_owner,
)

tenants_app = typer.Typer(help="Say who may use the service.", no_args_is_help=True)

KEY_VARIABLE = "S2D_OPERATOR_KEY"
"""Holds a secret, which would stand in the list of processes if it were an option."""

URL_HELP = f"Where the service answers; the operator's key is read from {KEY_VARIABLE}."
Url = Annotated[str | None, typer.Option(help=URL_HELP)]
File = Annotated[Path, typer.Option("--file", help="The tenants file.")]
DEFAULT_FILE = Path("tenants.yaml")


@tenants_app.command()
def add(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and hyphens.")],
    file: File = DEFAULT_FILE,
    operator: Annotated[
        bool, typer.Option("--operator", help="An operator, who has no limits and writes no text.")
    ] = False,
    targets: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Targets it may use; all by default.")
    ] = None,
    modes: Annotated[
        str | None, typer.Option(metavar="MODE,MODE", help="Speculation modes it may use.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="No limit by default.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="No limit by default.")] = None,
    max_running: Annotated[int | None, typer.Option(help="Texts written at one time.")] = None,
    max_waiting: Annotated[int | None, typer.Option(help="Requests that may wait.")] = None,
    band: Annotated[int | None, typer.Option(help="A lower band goes first.")] = None,
    weight: Annotated[float | None, typer.Option(help="Share among tenants of a band.")] = None,
) -> None:
    """Add a tenant or an operator, and show its key."""
    given: dict[str, Any] = {
        "targets": None if targets is None else targets.split(","),
        "modes": None if modes is None else modes.split(","),
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_running": max_running,
        "max_waiting": max_waiting,
        "band": band,
        "weight": weight,
    }
    fields = {key: value for key, value in given.items() if value is not None}
    tenants = load_tenants(file) if file.exists() else TenantsFile()
    with_it = with_owner(tenants, name, fields, is_operator=operator)
    changed, key = rotated(with_it, name, datetime.now(UTC), timedelta(0))
    _save(file, changed)
    typer.echo(key)


@tenants_app.command("list")
def list_tenants(file: File = DEFAULT_FILE) -> None:
    """Show tenants, operators, their limits and the state of their keys."""
    for name, owner in load_tenants(file).owners():
        fields = owner.model_dump(mode="json", exclude={"keys"}, exclude_unset=True)
        kind = "tenant" if isinstance(owner, TenantConfig) else "operator"
        limits = "  ".join(f"{key}={value}" for key, value in fields.items())
        typer.echo(f"{name}  {kind}  {limits}".rstrip())
        for key in owner.keys:
            typer.echo(f"  key {key.id}  {_state(key, datetime.now(UTC))}")


@tenants_app.command()
def rotate(
    name: Annotated[str, typer.Argument(help="A tenant or an operator.")],
    file: File = DEFAULT_FILE,
    overlap_hours: Annotated[
        float, typer.Option(min=0, help="How long older keys go on to work.")
    ] = 24.0,
) -> None:
    """Make another key and show it; older ones expire after the overlap."""
    overlap = timedelta(hours=overlap_hours)
    changed, key = rotated(load_tenants(file), name, datetime.now(UTC), overlap)
    _save(file, changed)
    typer.echo(key)


@tenants_app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="The id of a key, as `list` shows it.")],
    file: File = DEFAULT_FILE,
    url: Url = None,
) -> None:
    """Revoke a key: in the file, if it is there, and with --url at once in a running service."""
    if url is None or file.exists():
        _save(file, revoked(load_tenants(file), key_id))
    if url is None:
        typer.echo(f"key {key_id} is revoked")
    else:
        told = _ask(url, "POST", f"/v1/operator/keys/{key_id}/revoke")
        typer.echo(f"key {key_id} is revoked; {told['routers']} routers have confirmed it")


@tenants_app.command()
def usage(url: Annotated[str, typer.Option(help=URL_HELP)] = "http://127.0.0.1:8000") -> None:
    """Show requests and tokens by tenant and target."""
    for tenant, targets in _ask(url, "GET", "/v1/usage")["tenants"].items():
        for target, sums in targets.items():
            counts = "  ".join(f"{name}={count}" for name, count in sums.items())
            typer.echo(f"{tenant}  {target}  {counts}")


def _ask(url: str, method: str, path: str) -> dict[str, Any]:
    """An operator's question to a running service. Raises RunError if it is not answered."""
    import httpx

    key = os.environ.get(KEY_VARIABLE)
    if key is None:
        raise RunError(f"put the key of an operator into the environment as {KEY_VARIABLE}")
    try:
        answer = httpx.request(
            method, f"{url}{path}", headers={"authorization": f"Bearer {key}"}, timeout=30.0
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RunError(f"{url} does not answer: {error}") from None
    body: dict[str, Any] = answer.json()
    if answer.is_error:
        raise RunError(f"{url}: {body['error']['message']}")
    return body


def _save(file: Path, tenants: TenantsFile) -> None:
    try:
        save_tenants(file, tenants)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


def _state(key: KeyConfig, now: datetime) -> str:
    if key.revoked:
        return "revoked"
    if key.expires is None:
        return "valid"
    verb = "expired" if key.expires <= now else "expires"
    return f"{verb} {key.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
