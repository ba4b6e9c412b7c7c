"""Tenants in the chart: the ledger's pod, its sidecar, and where keys come from."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from s2d_ray.serve.ledger_state import AUDIT, USAGE
from s2d_ray.serve.line_log import LineLog
from tests.kube.rendering import Manifest, groups_of, manifests, of_kind, serve_document

PATIENCE_S = 60.0
FOLDER = "/var/lib/s2d-ray"


def pod_of(group: str, *options: str) -> Manifest:
    pod: Manifest = groups_of(manifests("multi-tenant", *options))[group]["template"]["spec"]
    return pod


def mounts_of(container: Manifest) -> dict[str, Manifest]:
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


def volume(pod: Manifest, name: str) -> Manifest:
    found: Manifest
    [found] = [item for item in pod["volumes"] if item["name"] == name]
    return found


def test_the_tenants_file_is_a_secret_mounted_as_a_folder_that_is_updated() -> None:
    """Where the config says that it is; by subPath it would stay as it was."""
    pod = pod_of("control")
    ray = pod["containers"][0]
    assert ray["name"] == "ray-worker", "KubeRay takes the first container for Ray's"
    mount = mounts_of(ray)["/etc/s2d-tenants"]
    assert mount["readOnly"]
    assert "subPath" not in mount
    secret = volume(pod, mount["name"])["secret"]
    assert secret == {
        "secretName": "s2d-tenants",
        "defaultMode": 0o440,
        "items": [{"key": "tenants.yaml", "path": "tenants.yaml"}],
    }
    [ledger] = [
        app
        for app in serve_document(manifests("multi-tenant"))["applications"]
        if app["name"] == "ledger"
    ]
    assert Path(ledger["args"]["tenancy"]["file"]).parent == Path("/etc/s2d-tenants")


def test_only_the_ledger_s_pod_sees_tenants_and_state() -> None:
    for group in ("head", "router", "draft", "cpu"):
        pod = pod_of(group)
        assert not {"tenants", "state"} & {item["name"] for item in pod["volumes"]}
        assert len(pod["containers"]) == 1


def test_the_state_lies_in_a_claim_or_in_a_bounded_folder() -> None:
    assert volume(pod_of("control"), "state")["persistentVolumeClaim"] == {"claimName": "s2d-state"}
    bounded = volume(pod_of("control", "--set=control.state.existingClaim="), "state")
    assert bounded["emptyDir"] == {"sizeLimit": "2Gi"}
    assert mounts_of(pod_of("control")["containers"][0])[FOLDER]["name"] == "state"


def test_the_test_of_the_release_takes_its_key_from_a_secret() -> None:
    [container] = of_kind(manifests("multi-tenant"), "Pod")["spec"]["containers"]
    [key] = [item for item in container["env"] if item["name"] == "S2D_API_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": "s2d-test-key", "key": "key"}}
    [without] = of_kind(manifests("quickstart"), "Pod")["spec"]["containers"]
    assert [item["name"] for item in without["env"]] == ["HOME"]


def test_the_sidecar_sees_the_state_alone_and_changes_nothing() -> None:
    sidecar = pod_of("control")["containers"][1]
    assert mounts_of(sidecar) == {FOLDER: {"name": "state", "mountPath": FOLDER, "readOnly": True}}
    assert "env" not in sidecar


class Printed:
    """Lines that a command prints, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._lines: deque[str] = deque()
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self._lines.append(line.rstrip("\n"))
                self._more.notify()

    def wait_for(self, beginning: str) -> None:
        def is_there() -> bool:
            return any(line.startswith(beginning) for line in self._lines)

        with self._more:
            assert self._more.wait_for(is_there, PATIENCE_S), self._lines

    def all(self) -> list[str]:
        """Without what the command says of files that come and go."""
        self._reader.join(PATIENCE_S)
        return [line for line in self._lines if not line.startswith("tail: ")]


@contextmanager
def sidecar_on(folder: Path) -> Iterator[Printed]:
    """The sidecar's own command, on another folder."""
    command: list[Any] = pod_of("control")["containers"][1]["command"]
    here = [word.replace(FOLDER, str(folder)) for word in command]
    with subprocess.Popen(
        here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={"LC_ALL": "C"}
    ) as process:
        try:
            yield Printed(process)
        finally:
            process.kill()


def test_the_sidecar_prints_each_line_once_over_rotations_and_ends_when_told(
    tmp_path: Path,
) -> None:
    """From before there is a file; lines of a file that it found are not said again."""
    audit = LineLog(tmp_path / AUDIT)
    audit.write("old")
    with sidecar_on(tmp_path) as printed:
        printed.wait_for("tail: cannot open")
        usage = LineLog(tmp_path / USAGE, max_bytes=40, num_files=3)
        for number in range(10):
            usage.write(f"used {number:08}")
            printed.wait_for(f"used {number:08}")
        assert (tmp_path / f"{USAGE}.3").exists()
        audit.write("new")
        printed.wait_for("new")
        printed.process.terminate()
        printed.process.wait(PATIENCE_S)
        assert sorted(printed.all()) == ["new", *(f"used {number:08}" for number in range(10))]
    usage.close()
    audit.close()
