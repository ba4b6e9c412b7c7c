"""Real API servers on loopback, from the binaries in the folder that `KUBEBUILDER_ASSETS` names.

`kube-apiserver` has the core types; `apiextensions-apiserver` alone serves custom resources, and is
the newer one. Both with an etcd of their own, all below one folder, all ended by `stop`.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kubernetes import config

from s2d_ray.kube.client import Cluster
from s2d_ray.kube.manifest import Item
from tests.ports import free_port

READY_S = 90.0


def binary(name: str) -> str:
    """Path of a server's binary; skips the test where it is not to be had."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if not folder:
        pytest.skip("no API server: KUBEBUILDER_ASSETS names no folder with its binaries")
    path = Path(folder) / name
    if not path.exists():
        pytest.skip(f"no API server: {folder} has no {name}")
    return str(path)


@dataclass
class Server:
    """A running API server: its kubeconfig, and kubectl for it."""

    folder: Path
    kubeconfig: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [binary(name), *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.processes.append(process)

    def stop(self) -> None:
        for process in reversed(self.processes):  # etcd last: the others take leave of it
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_for(self, *curl: str) -> None:
        """Wait until a request succeeds. Fails with the last lines of the log."""
        end_s = time.monotonic() + READY_S
        command = ["curl", "-sf", "--noproxy", "*", "--max-time", "2", *curl]
        while subprocess.run(command, capture_output=True, check=False).returncode:
            last = self.processes[-1]
            if last.poll() is not None or time.monotonic() > end_s:
                name = Path(str(last.args[0])).name  # type: ignore[index]
                log = (self.folder / f"{name}.log").read_text(errors="replace")
                pytest.fail(f"{name} did not come up:\n{log[-1500:]}")
            time.sleep(0.1)

    def start_etcd(self) -> str:
        client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.start(
            "etcd",
            *("--name", "default", "--data-dir", str(self.folder / "etcd"), "--log-level", "error"),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}", "--unsafe-no-fsync"),
        )
        self.wait_for(f"{client}/health")
        return client


def cluster_of(server: Server) -> Cluster:
    """Our client for a server, with no memory of what kinds it had before."""
    return Cluster(config.new_client_from_config(str(server.kubeconfig)), "default")


def until_served(server: Server, item: Item) -> None:
    """Wait until the server knows a kind whose definition was just installed."""
    end_s = time.monotonic() + READY_S
    while not cluster_of(server).has(item):
        if time.monotonic() > end_s:
            pytest.fail(f"{item.kind} is not served although it is defined")
        time.sleep(0.1)


@contextmanager
def serving() -> Iterator[Server]:
    """An empty server; whatever is started in it ends with the context."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="s2d-kube-", dir=memory if memory.exists() else None))
    server = Server(folder, folder / "kubeconfig")
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def write_kubeconfig(server: Server, port: int, user: dict[str, str]) -> None:
    """A kubeconfig (JSON is YAML) with one context, in the namespace default."""
    authority = str(server.folder / "certs" / "apiserver.crt")
    address = {"server": f"https://127.0.0.1:{port}", "certificate-authority": authority}
    context = {"cluster": "test", "user": "admin", "namespace": "default"}
    server.kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": address}],
                "users": [{"name": "admin", "user": user}],
                "contexts": [{"name": "test", "context": context}],
            }
        )
    )


@contextmanager
def kube_apiserver() -> Iterator[Server]:
    """The whole API server, with RBAC, without controllers."""
    binary("kube-apiserver")
    with serving() as server:
        etcd, port, token = server.start_etcd(), free_port(), secrets.token_hex(16)
        folder = server.folder
        (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        key = str(folder / "sa.key")
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], capture_output=True, check=True)
        server.start(
            "kube-apiserver",
            *(f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
            *("--advertise-address=127.0.0.1", f"--cert-dir={folder / 'certs'}"),
            *("--service-cluster-ip-range=10.0.0.0/24", "--authorization-mode=RBAC"),
            *(f"--token-auth-file={folder / 'tokens.csv'}", "--endpoint-reconciler-type=none"),
            *("--service-account-issuer=https://kubernetes.default.svc",),
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            "--disable-admission-plugins=ServiceAccount",
        )
        write_kubeconfig(server, port, {"token": token})
        address = f"https://127.0.0.1:{port}"
        authorised = ("-k", "-H", f"Authorization: Bearer {token}")
        server.wait_for(*authorised, f"{address}/readyz")
        server.wait_for(*authorised, f"{address}/api/v1/namespaces/default")
        yield server


@contextmanager
def custom_resource_server() -> Iterator[Server]:
    """The current server of custom resources alone: CEL rules, unknown fields refused."""
    binary("apiextensions-apiserver")
    with serving() as server:
        etcd, port, folder = server.start_etcd(), free_port(), server.folder
        certificate = client_certificate(folder)
        nowhere = folder / "nowhere"
        write_kubeconfig(server, 1, certificate)
        server.kubeconfig.rename(nowhere)
        server.start(
            "apiextensions-apiserver",
            *(f"--etcd-servers={etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}"),
            *(f"--cert-dir={folder / 'certs'}", f"--client-ca-file={folder / 'ca.crt'}"),
            *(f"--{use}kubeconfig={nowhere}" for use in ("", "authentication-", "authorization-")),
            *("--authentication-skip-lookup=true", "--enable-priority-and-fairness=false"),
            "--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,"
            "ValidatingAdmissionWebhook,ValidatingAdmissionPolicy,MutatingAdmissionPolicy",
        )
        write_kubeconfig(server, port, certificate)
        paths = certificate["client-certificate"], certificate["client-key"]
        address = f"https://127.0.0.1:{port}/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        server.wait_for("-k", "--cert", paths[0], "--key", paths[1], address)
        yield server


def client_certificate(folder: Path) -> dict[str, str]:
    """A certificate of system:masters, by an authority of its own."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)

    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    subject = "/O=system:masters/CN=admin"
    openssl(*new, "-subj", subject, "-keyout", "admin.key", "-out", "admin.csr")
    authority = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "admin.csr", *authority, "-days", "2", "-out", "admin.crt")
    return {
        "client-certificate": str(folder / "admin.crt"),
        "client-key": str(folder / "admin.key"),
    }
