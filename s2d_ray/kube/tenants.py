"""`s2d kube tenants`: the tenants file and the Secret that the ledger's pod mounts.

Names of tenants and ids of keys are told; salts and hashes never are.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from s2d_ray.config import as_written
from s2d_ray.errors import ClusterError, ConfigError
from s2d_ray.kube.client import connect
from s2d_ray.kube.manifest import Body, Item
from s2d_ray.kube.options import As, Context, Force, Namespace
from s2d_ray.tenants import (
    KeyConfig,
    TenantsFile,
    dump_tenants,
    load_tenants,
    parse_tenants,
    save_tenants,
)

KEY = "tenants.yaml"
"""Of the Secret; the chart mounts it by the name that the config says."""

tenants_app = typer.Typer(
    name="tenants", help="Keep the Secret of the tenants file.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="The Secret: `secrets.tenants.existingSecret`.")]
File = Annotated[Path, typer.Option("--file", help="The tenants file, kept by `s2d tenant`.")]


@tenants_app.command()
def sync(
    name: Name,
    file: File = Path(KEY),
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask the server, show, and store nothing.")
    ] = False,
) -> None:
    """Make the Secret hold what the file says; the running ledger takes it over by itself."""
    wanted = load_tenants(file)
    cluster = connect(kube_context, namespace, as_user)
    live = cluster.get(secret(name))
    lines = ["the Secret is made"] if live is None else []
    try:
        before = TenantsFile() if live is None else tenants_in(live)
    except ConfigError:
        lines, before = ["what was in the Secret could not be read"], TenantsFile()
    lines += changes(before, wanted)
    if lines:
        cluster.apply(secret(name, wanted), dry_run=dry_run, force=force)
    typer.echo("\n".join(f"{name}: {line}" for line in lines or ["nothing changes"]))


@tenants_app.command()
def fetch(
    name: Name,
    file: File = Path(KEY),
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
) -> None:
    """Write the file that a Secret holds, to change it on another machine."""
    if file.exists():
        raise ConfigError(f"{file}: is there already; move it away, or name another with --file")
    live = connect(kube_context, namespace, as_user).get(secret(name))
    if live is None:
        raise ClusterError(f"Secret {name}: is not there; `s2d kube tenants sync {name}` makes it")
    tenants = tenants_in(live)
    try:
        save_tenants(file, tenants)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None
    typer.echo(f"{file}: {len(tenants.tenants)} tenants, {len(tenants.operators)} operators")


def secret(name: str, tenants: TenantsFile | None = None) -> Item:
    """The Secret; without tenants one to look for."""
    body: Body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}
    if tenants is not None:
        content = base64.b64encode(dump_tenants(tenants).encode()).decode()
        body |= {"type": "Opaque", "data": {KEY: content}}
    return Item(body)


def tenants_in(live: Body) -> TenantsFile:
    """What a Secret from the server holds. Raises ConfigError if that is no tenants file."""
    where = f"Secret {live['metadata']['name']}, key {KEY}"
    try:
        text = base64.b64decode((live.get("data") or {})[KEY], validate=True).decode()
    except (KeyError, binascii.Error, UnicodeDecodeError):
        raise ConfigError(f"{where}: is no tenants file") from None
    return parse_tenants(text, where)


def changes(before: TenantsFile, after: TenantsFile) -> list[str]:
    """What differs between two tenants files, one line each."""
    lines: list[str] = []
    for kind in ("operators", "tenants"):
        old, new = getattr(before, kind), getattr(after, kind)
        for name in sorted(old.keys() | new.keys()):
            who = f"{kind[:-1]} {name}"
            if name not in new:
                lines.append(f"{who} goes, with {len(old[name].keys)} keys")
                continue
            if name not in old:
                lines.append(f"{who} comes")
            was = as_written(old[name]) if name in old else {}
            lines += [f"{who}: {line}" for line in _limits(was, as_written(new[name]))]
            old_keys = old[name].keys if name in old else ()
            lines += [f"{who}: {line}" for line in _keys(old_keys, new[name].keys)]
    return lines


def _limits(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for field in sorted((before.keys() | after.keys()) - {"keys"}):
        was, becomes = before.get(field, "default"), after.get(field, "default")
        if was != becomes:
            yield f"{field} {was} -> {becomes}"


def _keys(before: tuple[KeyConfig, ...], after: tuple[KeyConfig, ...]) -> Iterator[str]:
    old, new = ({key.id: key for key in keys} for keys in (before, after))
    for key_id in sorted(old.keys() | new.keys()):
        if key_id not in new:
            yield f"key {key_id} goes"
        elif key_id not in old:
            yield f"key {key_id} comes{_state(new[key_id])}"
        elif old[key_id] != new[key_id]:
            yield f"key {key_id} changes{_state(new[key_id])}"


def _state(key: KeyConfig) -> str:
    if key.revoked:
        return ", revoked"
    return f", expires {key.expires.isoformat()}" if key.expires else ""
