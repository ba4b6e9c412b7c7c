"""`s2d kube`: look at, apply, wait for and delete what the chart renders."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from s2d_ray.errors import ClusterError, ConfigError
from s2d_ray.kube import manifest
from s2d_ray.kube.changes import Change, changes_of
from s2d_ray.kube.client import Cluster, connect
from s2d_ray.kube.manifest import Item, read_manifest
from s2d_ray.kube.options import As, Context, Force, Namespace
from s2d_ray.kube.state import Verdict, describe, describe_load, read_state, verdict
from s2d_ray.kube.tenants import tenants_app

CheckDocument = Callable[[Any], list[str]]
"""What is wrong with a Serve document; handed in, since Ray knows and this package does not."""

POLL_S = 2.0

kube_app = typer.Typer(
    help="Check, apply and watch what the Helm chart renders, on Kubernetes.", no_args_is_help=True
)
kube_app.add_typer(tenants_app)

File = Annotated[Path, typer.Argument(help="A rendered manifest: the output of `helm template`.")]
Name = Annotated[str, typer.Argument(help="Name of the RayService.")]


@kube_app.command()
def check(
    context: typer.Context,
    file: File,
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
) -> None:
    """Tell what is wrong with a manifest, and what the cluster or your rights lack for it."""
    items = read_manifest(file)
    troubles = [trouble for item in items for trouble in _troubles(item, context.obj)]
    cluster = connect(kube_context, namespace, as_user)
    for item in items:
        if not cluster.has(item):
            troubles.append(f"{item}: the cluster knows no {item.kind} of {item.api_version}")
            continue
        troubles += [
            f"{item}: no right to {verb} it in namespace {item.namespace or cluster.namespace}"
            for verb in ("get", "patch", "create", "delete")
            if not cluster.may(item, verb)
        ]
    if troubles:
        raise ConfigError("\n".join(troubles))
    typer.echo(f"{file}: {len(items)} objects, ready to apply in namespace {cluster.namespace}")


def _troubles(item: Item, check_document: CheckDocument) -> list[str]:
    troubles = manifest.troubles_of(item)
    if item.is_service:
        found = check_document(manifest.serve_document(item.body))
        troubles += [f"{item}: spec.serveConfigV2.{trouble}" for trouble in found]
    return troubles


@kube_app.command()
def diff(
    file: File,
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
    force: Annotated[
        bool, typer.Option("--force", help="As if other managers' fields were taken.")
    ] = False,
) -> None:
    """Show what `apply` would change, and what each change does to what runs."""
    cluster = connect(kube_context, namespace, as_user)
    lines = [str(change) for _, changes in _planned(cluster, file, force) for change in changes]
    typer.echo("\n".join(lines) or "nothing changes")


@kube_app.command()
def apply(
    file: File,
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
    force: Force = False,
) -> None:
    """Apply a manifest on the server; nothing is applied if the server refuses any part of it."""
    cluster = connect(kube_context, namespace, as_user)
    for item, changes in _planned(cluster, file, force):
        if changes:
            cluster.apply(item, force=force)
        typer.echo("\n".join(map(str, changes)) or f"{item}: unchanged")


def _planned(cluster: Cluster, file: Path, force: bool) -> list[tuple[Item, list[Change]]]:
    """What a dry run of each object would change; the server has refused none of them."""
    return [
        (item, changes_of(cluster.get(item), cluster.apply(item, dry_run=True, force=force)))
        for item in read_manifest(file)
    ]


@kube_app.command()
def status(
    name: Name,
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and show each change.")] = False,
) -> None:
    """Show conditions, applications, pods and queues."""
    cluster = connect(kube_context, namespace, as_user)
    shown: list[str] = []
    while True:
        lines = _status_lines(cluster, name)
        if lines != shown:
            typer.echo("\n".join(lines))
        if not watch:
            return
        shown = lines
        time.sleep(POLL_S)


def _status_lines(cluster: Cluster, name: str) -> list[str]:
    lines = describe(read_state(cluster.service(name)))
    health = cluster.health(name)
    return lines + (["  the API does not answer"] if health is None else describe_load(health))


@kube_app.command()
def wait(
    name: Name,
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 1_800.0,
) -> None:
    """Wait until all applications of the last version run; fails at once if one cannot."""
    cluster = connect(kube_context, namespace, as_user)
    end_s = time.monotonic() + timeout_s
    said = ""
    while True:
        found, reason = verdict(read_state(cluster.service(name)))
        if found is Verdict.FAILED:
            raise ClusterError(f"{name}: {reason}")
        if reason != said:
            typer.echo(f"{name}: {reason}")
            said = reason
        if found is Verdict.READY:
            return
        if time.monotonic() >= end_s:
            raise ClusterError(f"{name}: still not ready after {timeout_s:g} s: {reason}")
        time.sleep(min(POLL_S, max(0.0, end_s - time.monotonic())))


@kube_app.command()
def logs(
    name: Name,
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
    group: Annotated[
        str | None, typer.Option(help="router, control, draft, headgroup or a placement.")
    ] = None,
    tail: Annotated[int, typer.Option(min=1, help="Lines of each container.")] = 50,
) -> None:
    """Print the last lines of every container, each behind the name of its pod."""
    cluster = connect(kube_context, namespace, as_user)
    state = read_state(cluster.service(name))
    names = [found.name for found in (state.active, state.pending) if found is not None]
    pods = [pod for cluster_name in names for pod in cluster.pods(cluster_name, group)]
    if not pods:
        raise ClusterError(f"{name}: has no pods{f' in group {group}' if group else ''} yet")
    for pod in pods:
        pod_name, spec = pod["metadata"]["name"], pod["spec"]
        for container in (*spec.get("initContainers", []), *spec["containers"]):
            text = cluster.log(pod_name, container["name"], tail)
            for line in text.splitlines() or ["(nothing yet)"]:
                typer.echo(f"{pod_name} {container['name']}: {line}")


@kube_app.command()
def delete(
    file: File,
    kube_context: Context = None,
    namespace: Namespace = None,
    as_user: As = None,
) -> None:
    """Delete the objects of a manifest that `s2d kube apply` made; others are left alone."""
    cluster = connect(kube_context, namespace, as_user)
    for item in reversed(read_manifest(file)):
        live = cluster.get(item)
        if live is None:
            typer.echo(f"{item}: is not there")
        elif not manifest.is_ours(live):
            typer.echo(f"{item}: left alone, since `s2d kube apply` did not make it")
        else:
            cluster.delete(item)
            typer.echo(f"{item}: deleted")
