"""`s2d kube` and the chart against a real API server; the tests write the operator's statuses.

Proven here: what the client and Helm send is taken, kept, refused and reported as it should be. Not
proven: the operator, pods, and core types newer than the server.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from typer.testing import CliRunner

from s2d_ray.errors import ClusterError, S2DError
from s2d_ray.kube.cli import kube_app
from s2d_ray.kube.manifest import Item
from s2d_ray.kube.tenants import secret, tenants_in
from s2d_ray.serve.strict import troubles_of
from s2d_ray.tenants import TenantsFile, revoked, rotated, save_tenants, with_owner
from tests.kube.rendering import CHART, IMAGE, custom_resource, documents, template, tool
from tests.kube.servers import Server, cluster_of, kube_apiserver, until_served
from tests.kube.statuses import STATUSES

NO_BUDGET = "--set=router.pdb.enabled=false"
"""The one kind of the quickstart that Kubernetes 1.20 has not: policy/v1."""

HOOKLESS = ("--no-hooks", NO_BUDGET)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with kube_apiserver() as running:
        yield running


@pytest.fixture(autouse=True)
def the_kubeconfig(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client library reads its variable when it is imported, so that is set behind it."""
    use(server, monkeypatch)


def use(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(server.kubeconfig)
    monkeypatch.setattr(config.kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", path)


def establish(server: Server) -> None:
    """Install KubeRay's definition of a RayService, and wait until it is served.

    It is created, not applied: this server knows no rules, and takes no part in applying any.
    """
    definition = server.folder / "rayservices.json"
    definition.write_text(json.dumps(custom_resource("ray.io_rayservices")))
    kubectl(server, "create", "--validate=false", "-f", str(definition))
    until_served(server, service_item())


def service_item(name: str = "s2d-ray") -> Item:
    return Item({"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": {"name": name}})


@pytest.fixture(scope="module")
def kuberay(server: Server) -> Server:
    """The server with KubeRay's definition."""
    establish(server)
    return server


@dataclass
class Said:
    """What a command printed, and the error that ended it."""

    lines: list[str]
    error: str | None


def s2d_kube(*arguments: str) -> Said:
    """Run a command as `s2d kube` does, with the check of Serve documents handed in."""
    result = CliRunner().invoke(kube_app, list(arguments), obj=troubles_of)
    if result.exception is None or isinstance(result.exception, SystemExit):
        assert result.exit_code == 0, result.output
        return Said(result.output.splitlines(), None)
    assert isinstance(result.exception, S2DError), repr(result.exception)
    return Said(result.output.splitlines(), result.exception.message)


def rendered(folder: Path, *options: str, name: str = "all.yaml") -> str:
    """A file with the quickstart as this server can hold it."""
    path = folder / name
    path.write_text(template("quickstart", *HOOKLESS, *options))
    return str(path)


@pytest.fixture
def applied(kuberay: Server, tmp_path: Path) -> Iterator[str]:
    """The quickstart, applied; gone behind the test."""
    file = rendered(tmp_path)
    assert s2d_kube("apply", file).error is None
    yield file
    s2d_kube("delete", file)


def test_a_cluster_without_the_operator_is_told_how_to_get_it(
    server: Server, tmp_path: Path
) -> None:
    """Runs before the definition is installed."""
    assert not cluster_of(server).has(service_item())
    for command in ("apply", "diff"):
        error = s2d_kube(command, rendered(tmp_path)).error
        assert error is not None
        assert error.startswith("the cluster knows no RayService of ray.io/v1: install the KubeRay")
        assert len(error.splitlines()) == 1
    found = cluster_of(server).get(
        Item({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s2d-ray-config"}})
    )
    assert found is None, "apply stored a part although another was refused"


def test_check_says_that_all_is_ready_or_what_is_missing(kuberay: Server, tmp_path: Path) -> None:
    assert (
        s2d_kube("check", rendered(tmp_path))
        .lines[0]
        .endswith("3 objects, ready to apply in namespace default")
    )
    file = tmp_path / "wrong.yaml"
    text = template("quickstart", "--no-hooks", "--set=image.digest=")
    file.write_text(
        text.replace('"num_replicas"', '"num_replica"').replace(f"{IMAGE}:0.1.0", IMAGE)
    )
    error = s2d_kube("check", str(file)).error
    assert error is not None
    assert (
        "RayService s2d-ray: spec.serveConfigV2.applications.1.deployments.0.num_replica" in error
    )
    assert f"RayService s2d-ray: image {IMAGE} names no fixed tag or digest" in error
    assert "PodDisruptionBudget s2d-ray-router: the cluster knows no" in error


def test_apply_diff_and_delete_go_round_and_change_nothing_twice(
    kuberay: Server, tmp_path: Path
) -> None:
    file = rendered(tmp_path)
    created = ["NetworkPolicy s2d-ray", "ConfigMap s2d-ray-config", "RayService s2d-ray"]
    assert s2d_kube("diff", file).lines == [f"{what}: created" for what in created]
    assert cluster_of(kuberay).get(service_item()) is None
    assert s2d_kube("apply", file).lines == [f"{what}: created" for what in created]
    first = cluster_of(kuberay).service("s2d-ray")["metadata"]
    assert s2d_kube("diff", file).lines == ["nothing changes"]
    assert s2d_kube("apply", file).lines == [f"{what}: unchanged" for what in created]
    again = cluster_of(kuberay).service("s2d-ray")["metadata"]
    assert again["resourceVersion"] == first["resourceVersion"]
    assert s2d_kube("delete", file).lines == [f"{what}: deleted" for what in reversed(created)]
    assert s2d_kube("delete", file).lines == [f"{what}: is not there" for what in reversed(created)]


def test_diff_names_the_class_of_each_change_and_stores_none(applied: str, tmp_path: Path) -> None:
    changed = rendered(
        tmp_path,
        "--set=config.targets.smollm2-135m.max_batch=4",
        "--set=placements.cpu.max=3",
        name="changed.yaml",
    )
    expected = [
        "ConfigMap s2d-ray-config: live; nothing restarts",
        "RayService s2d-ray: number of pods of cpu: in place; nothing restarts",
        "RayService s2d-ray: application target-smollm2-135m: "
        "restart; the replicas of this application are replaced",
        "RayService s2d-ray: application router: live; nothing restarts",
    ]
    assert s2d_kube("diff", changed).lines == expected
    assert s2d_kube("diff", applied).lines == ["nothing changes"]
    assert s2d_kube("apply", changed).lines == ["NetworkPolicy s2d-ray: unchanged", *expected]
    assert s2d_kube("diff", changed).lines == ["nothing changes"]


def patch_as(server: Server, manager: str, body: dict[str, Any]) -> None:
    """Change the RayService as another field manager does."""
    api = client.CustomObjectsApi(config.new_client_from_config(str(server.kubeconfig)))
    api.patch_namespaced_custom_object(
        "ray.io", "v1", "default", "rayservices", "s2d-ray", body, field_manager=manager
    )


def test_a_field_of_another_manager_is_a_conflict_until_it_is_forced(
    applied: str, kuberay: Server, tmp_path: Path
) -> None:
    patch_as(kuberay, "somebody", {"spec": {"excludeHeadPodFromServeSvc": False}})
    error = s2d_kube("apply", applied).error
    assert error is not None
    assert "somebody" in error
    assert "excludeHeadPodFromServeSvc" in error
    assert error.endswith("--force takes these fields over")
    assert (
        s2d_kube("apply", applied, "--force")
        .lines[-1]
        .endswith("labels and options: live; nothing restarts")
    )
    assert s2d_kube("apply", applied).error is None


def test_a_missing_right_is_named(kuberay: Server, tmp_path: Path) -> None:
    """By impersonation: a user whom no role names."""
    file = rendered(tmp_path)
    error = s2d_kube("apply", file, "--as", "nobody").error
    assert error is not None
    assert "no right to" in error
    assert "nobody" in error
    error = s2d_kube("check", file, "--as", "nobody").error
    assert error is not None
    assert "RayService s2d-ray: no right to patch it in namespace default" in error.splitlines()


def test_delete_leaves_alone_what_it_did_not_make(kuberay: Server, tmp_path: Path) -> None:
    file = rendered(tmp_path)
    kubectl(kuberay, "create", "-f", file, "--validate=false")
    lines = s2d_kube("delete", file).lines
    assert [line.split(": ")[1][:10] for line in lines] == ["left alone"] * 3
    assert cluster_of(kuberay).get(service_item()) is not None
    kubectl(kuberay, "delete", "-f", file)


def kubectl(server: Server, *arguments: str) -> None:
    command = [tool("kubectl"), "--kubeconfig", str(server.kubeconfig), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def write_status(server: Server, status: dict[str, Any]) -> None:
    """Play the operator: replace the status, for the version that is there now."""
    api = client.CustomObjectsApi(config.new_client_from_config(str(server.kubeconfig)))
    service = cluster_of(server).service("s2d-ray")
    seen = {"observedGeneration": service["metadata"]["generation"]} if status else {}
    api.replace_namespaced_custom_object_status(
        "ray.io", "v1", "default", "rayservices", "s2d-ray", {**service, "status": status | seen}
    )


@pytest.mark.parametrize("name", STATUSES)
def test_status_and_wait_say_what_the_operator_wrote(
    name: str, applied: str, kuberay: Server
) -> None:
    status, verdict, words = STATUSES[name]
    write_status(kuberay, status)
    lines = s2d_kube("status", "s2d-ray").lines
    assert lines[0].startswith("s2d-ray: ")
    assert words in lines[0]
    assert lines[-1] == "  the API does not answer"
    waited = s2d_kube("wait", "s2d-ray", "--timeout", "0.1")
    said = waited.error or waited.lines[-1]
    assert words in said
    assert (waited.error is None) == (verdict.value == "ready")
    assert ("still not ready after 0.1 s" in said) == (verdict.value == "waiting")


def play(server: Server, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    """Each time the command sleeps, the operator goes one state further; then all is stopped."""
    left = list(names)

    def step(seconds: float) -> None:
        if not left:
            raise ClusterError("stopped by the test")
        write_status(server, STATUSES[left.pop(0)][0])

    monkeypatch.setattr("s2d_ray.kube.cli.time.sleep", step)


def test_wait_says_each_state_once_and_ends_when_all_run(
    applied: str, kuberay: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(kuberay, monkeypatch, ["pending", "pending", "unhealthy", "ready"])
    assert s2d_kube("wait", "s2d-ray") == Said(
        [
            "s2d-ray: the operator has not seen this version yet; does it run?",
            "s2d-ray: not ready: Initializing: no cluster yet",
            "s2d-ray: target-a is UNHEALTHY",
            "s2d-ray: ready",
        ],
        None,
    )


def test_wait_ends_at_once_when_an_application_cannot_start(
    applied: str, kuberay: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(kuberay, monkeypatch, ["upgrade", "upgrade that cannot start"])
    error = s2d_kube("wait", "s2d-ray").error
    assert error == "s2d-ray: target-a cannot start: ModelError: no such model"


def test_watch_shows_each_change_and_nothing_twice(
    applied: str, kuberay: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    play(kuberay, monkeypatch, ["ready", "ready", "upgrade"])
    said = s2d_kube("status", "s2d-ray", "--watch")
    assert said.error == "stopped by the test"
    assert [line for line in said.lines if line.startswith("s2d-ray: ")] == [
        "s2d-ray: the operator has not seen this version yet; does it run?; 0 pods take requests",
        "s2d-ray: ready; 2 pods take requests",
        "s2d-ray: an upgrade to two is under way; 0 pods take requests",
    ]


def test_in_a_pod_its_service_account_is_used(
    applied: str, kuberay: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no kubeconfig; the namespace is that of the pod."""
    use(Server(tmp_path, tmp_path / "none"), monkeypatch)
    (tmp_path / "namespace").write_text("default\n")
    monkeypatch.setattr("s2d_ray.kube.client.IN_CLUSTER_NAMESPACE", tmp_path / "namespace")

    def of_the_pod(client_configuration: client.Configuration) -> None:
        config.load_kube_config(str(kuberay.kubeconfig), client_configuration=client_configuration)

    monkeypatch.setattr(config, "load_incluster_config", of_the_pod)
    assert s2d_kube("status", "s2d-ray").error is None


def test_a_change_is_waited_for_although_the_last_version_is_ready(
    applied: str, kuberay: Server, tmp_path: Path
) -> None:
    write_status(kuberay, STATUSES["ready"][0])
    assert s2d_kube("wait", "s2d-ray", "--timeout", "0.1").error is None
    s2d_kube("apply", rendered(tmp_path, "--set=config.plan.max_proposal=2", name="b.yaml"))
    error = s2d_kube("wait", "s2d-ray", "--timeout", "0.1").error
    assert error is not None
    assert "the operator has not seen this version yet" in error


def test_logs_come_from_the_pods_of_the_service(applied: str, kuberay: Server) -> None:
    """A pod that no node has taken has none, and that is said."""
    write_status(kuberay, STATUSES["ready"][0])
    assert s2d_kube("logs", "s2d-ray").error == "s2d-ray: has no pods yet"
    labels = {"ray.io/cluster": "one", "ray.io/group": "router"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one-router", "namespace": "default", "labels": labels},
        "spec": {"containers": [{"name": "ray-worker", "image": "a:1"}]},
    }
    api = client.CoreV1Api(config.new_client_from_config(str(kuberay.kubeconfig)))
    api.create_namespaced_pod("default", pod)
    try:
        said = s2d_kube("logs", "s2d-ray", "--group", "router").lines
        assert said == ["one-router ray-worker: (nothing yet)"]
        assert s2d_kube("logs", "s2d-ray", "--group", "cpu").error == (
            "s2d-ray: has no pods in group cpu yet"
        )
    finally:
        api.delete_namespaced_pod("one-router", "default", grace_period_seconds=0)


def test_a_name_that_is_not_there_and_a_cluster_that_is_not_are_one_line(
    kuberay: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = s2d_kube("status", "other").error
    assert error == "RayService other: there is none in namespace default"
    error = s2d_kube("status", "s2d-ray", "--context", "other").error
    assert error is not None
    assert error.startswith("the kubeconfig has no usable context other")
    settings = yaml.safe_load(kuberay.kubeconfig.read_text())
    settings["clusters"][0]["cluster"] = {"server": "http://127.0.0.1:1"}
    nowhere = Server(tmp_path, tmp_path / "nowhere")
    nowhere.kubeconfig.write_text(yaml.safe_dump(settings))
    use(nowhere, monkeypatch)
    error = s2d_kube("status", "s2d-ray").error
    assert error is not None
    assert error.startswith("the cluster at http://127.0.0.1:1 does not answer: ")
    assert len(error.splitlines()) == 1


def test_credentials_that_are_not_known_are_one_line(
    kuberay: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = yaml.safe_load(kuberay.kubeconfig.read_text())
    settings["users"][0]["user"] = {"token": "old"}
    stale = Server(tmp_path, tmp_path / "stale")
    stale.kubeconfig.write_text(yaml.safe_dump(settings))
    use(stale, monkeypatch)
    error = s2d_kube("status", "s2d-ray").error
    assert error is not None
    assert error.endswith("the cluster does not accept these credentials; log in again")


def helm_for(server: Server, folder: Path) -> Callable[..., str]:
    """Helm for a server; what it keeps of its own lies in the folder."""
    environment = os.environ | {
        f"HELM_{use}_HOME": str(folder / use) for use in ("CACHE", "CONFIG", "DATA")
    }

    def helm(*arguments: str) -> str:
        command = [tool("helm"), "--kubeconfig", str(server.kubeconfig), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return helm


def test_helm_installs_tenants_and_says_what_they_need(kuberay: Server, tmp_path: Path) -> None:
    """The Ingress is taken too; the notes name the Secret, and what is missing."""
    helm = helm_for(kuberay, tmp_path)
    preset = str(CHART / "presets" / "multi-tenant.yaml")
    values = ("-f", preset, "--set", f"image.repository={IMAGE}", NO_BUDGET)
    notes = helm("install", "s2d-ray", str(CHART), *values)
    assert "`s2d kube tenants sync s2d-tenants -n default`" in notes
    assert "asks nobody" not in notes
    assert "`helm test` fails until" not in notes
    lacking = "--set=secrets.testKey.existingSecret=,control.state.existingClaim="
    notes = helm("upgrade", "s2d-ray", str(CHART), *values, lacking)
    assert "`helm test` fails until secrets.testKey.existingSecret" in notes
    assert "control.state.existingClaim names no claim" in notes
    helm("uninstall", "s2d-ray")


def test_helm_installs_upgrades_rolls_back_and_uninstalls(
    kuberay: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only ordinary switches differ from the preset as it is."""
    helm = helm_for(kuberay, tmp_path)

    def max_batch() -> Any:
        text = cluster_of(kuberay).service("s2d-ray")["spec"]["serveConfigV2"]
        [target] = [
            app
            for app in yaml.safe_load(text)["applications"]
            if app["name"] == "target-smollm2-135m"
        ]
        return target["args"]["target"].get("max_batch")

    preset = str(CHART / "presets" / "quickstart.yaml")
    values = ("-f", preset, "--set", f"image.repository={IMAGE}", NO_BUDGET)
    notes = helm("install", "s2d-ray", str(CHART), *values)
    assert "s2d kube wait s2d-ray -n default" in notes
    assert "the loss of Ray's head ends the cluster" in notes
    assert max_batch() is None
    four = "--set=config.targets.smollm2-135m.max_batch=4"
    helm("upgrade", "s2d-ray", str(CHART), *values, four)
    assert max_batch() == 4
    helm("rollback", "s2d-ray", "1")
    assert max_batch() is None
    helm("uninstall", "s2d-ray")
    assert cluster_of(kuberay).get(service_item()) is None
    lacking = [
        str(item)
        for item in map(Item, documents(template("quickstart")))
        if not cluster_of(kuberay).has(item)
    ]
    assert lacking == ["PodDisruptionBudget s2d-ray-router"]
    with capsys.disabled():
        print(f"\nnot on this server, checked by the strict schemas alone: {', '.join(lacking)}")


def test_tenants_go_to_the_secret_and_back(server: Server, tmp_path: Path) -> None:
    """Nothing is stored by a dry run, nothing is sent twice, and no hash is told."""
    file = tmp_path / "tenants.yaml"
    tenants = with_owner(TenantsFile(), "acme", {"band": 2}, is_operator=False)
    tenants, _ = rotated(tenants, "acme", datetime.now(UTC), timedelta(0))
    save_tenants(file, tenants)
    stored = tenants.tenants["acme"].keys[0]
    sync = ("tenants", "sync", "keys", "--file", str(file))
    comes = [
        "keys: the Secret is made",
        "keys: tenant acme comes",
        "keys: tenant acme: band default -> 2",
        f"keys: tenant acme: key {stored.id} comes",
    ]
    assert s2d_kube(*sync, "--dry-run").lines == comes
    assert cluster_of(server).get(secret("keys")) is None
    assert s2d_kube(*sync).lines == comes
    assert s2d_kube(*sync).lines == ["keys: nothing changes"]
    live = cluster_of(server).get(secret("keys"))
    assert live is not None
    assert [entry["manager"] for entry in live["metadata"]["managedFields"]] == ["s2d-kube"]
    assert tenants_in(live) == tenants
    save_tenants(file, revoked(tenants, stored.id))
    assert s2d_kube(*sync).lines == [f"keys: tenant acme: key {stored.id} changes, revoked"]
    said = s2d_kube("tenants", "fetch", "keys", "--file", str(file)).error
    assert said == f"{file}: is there already; move it away, or name another with --file"
    again = tmp_path / "again.yaml"
    assert s2d_kube("tenants", "fetch", "keys", "--file", str(again)).lines == [
        f"{again}: 1 tenants, 0 operators"
    ]
    assert again.read_bytes() == file.read_bytes()
    assert again.stat().st_mode & 0o777 == 0o600
    cluster_of(server).delete(secret("keys"))


def test_tenants_that_another_manager_or_no_right_guards_are_told(
    server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "tenants.yaml"
    save_tenants(file, with_owner(TenantsFile(), "acme", {}, is_operator=False))
    sync = ("tenants", "sync", "others", "--file", str(file))
    kubectl(server, "create", "secret", "generic", "others", "--from-literal=tenants.yaml=[]")
    error = s2d_kube(*sync).error
    assert error is not None
    assert "kubectl" in error
    assert error.endswith("--force takes these fields over")
    assert s2d_kube(*sync, "--force").lines == [
        "others: what was in the Secret could not be read",
        "others: tenant acme comes",
    ]
    error = s2d_kube(*sync, "--as", "nobody").error
    assert error is not None
    assert error.startswith("Secret others: no right to get: ")
    cluster_of(server).delete(secret("others"))
    error = s2d_kube("tenants", "fetch", "others", "--file", str(tmp_path / "new.yaml")).error
    assert error == "Secret others: is not there; `s2d kube tenants sync others` makes it"
