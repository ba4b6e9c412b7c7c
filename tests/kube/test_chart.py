"""The chart: valid, strict, bounded, and the same as what is committed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from s2d_ray import __version__
from s2d_ray.config import load_config
from s2d_ray.kube import chart_files
from s2d_ray.kube.chart_files import CHART, PLAIN, ROOT
from s2d_ray.kube.values import ChartValues
from s2d_ray.observe import grafana
from s2d_ray.observe.alerts import Thresholds, filled
from s2d_ray.observe.pages import DASHBOARDS
from s2d_ray.serve import own_ray
from tests.kube.rendering import (
    IMAGE,
    PRESETS,
    Manifest,
    attempt,
    custom_schema,
    documents,
    groups_of,
    helm,
    kubernetes_schema,
    manifests,
    of_kind,
    serve_document,
    template,
    tool,
)
from tests.plan_files import plan_file

EVERYTHING = (
    "--set=monitoring.enabled=true,monitoring.labels.team=a,monitoring.alerts.enabled=true",
    "--set=monitoring.dashboards.enabled=true,monitoring.dashboards.annotations.folder=a",
    "--set=network.ingress.enabled=true,network.ingress.host=llm.example",
    "--set=network.ingress.tlsSecret=certificate,network.ingress.className=nginx",
    "--set=secrets.rayToken.existingSecret=token,secrets.redis.existingSecret=redis",
    "--set=gcsFaultTolerance.redisAddress=redis:6379,extraLabels.team=a",
    "--set=image.pullSecrets={registry}",
    "--set-json=placements={"
    '"cpu":{"min":0,"max":3,"resources":{"limits":{"cpu":"500m","memory":"2Gi"}},'
    '"nodeSelector":{"disk":"fast"},"tolerations":[{"key":"a","operator":"Exists"}],'
    '"rayLabels":{"zone":"a"}}}',
    '--set-json=extraObjects=[{"apiVersion":"v1","kind":"Secret","metadata":{"name":"more"}}]',
)
"""Every switch of the chart, on the quickstart."""

ODD_NAMES = (
    "--set-string=secrets.hub.existingSecret=123,secrets.rayToken.existingSecret=true",
    "--set-string=secrets.redis.existingSecret=1e3,gcsFaultTolerance.redisAddress=6379",
    "--set-string=image.pullSecrets={7},image.tag=1.0,network.ingress.className=1",
    "--set-string=network.ingress.tlsSecret=0x1,network.ingress.host=1.5",
    "--set-string=modelCache.type=claim,modelCache.existingClaim=12",
    "--set=network.ingress.enabled=true,sharedMemory=536870912",
    '--set-json=placements={"no":{"min":1,"max":3,"resources":{"limits":{"cpu":1,"memory":"2Gi"}}}}',
    *(
        f"--set=config.targets.{name}.placement=no"
        for name in ("smollm2-135m", "smollm2-135m-int8")
    ),
)
"""Names that YAML would take for numbers and truths."""

TENANTS = "--set=secrets.tenants.existingSecret=a"
TENANCY = "--set=config.tenancy.file=/a/b/t.yaml"

CASES: list[tuple[str, tuple[str, ...]]] = [(name, ()) for name in PRESETS]
CASES += [("quickstart", EVERYTHING), ("quickstart", ODD_NAMES)]
each_case = pytest.mark.parametrize(
    ("preset", "options"), CASES, ids=[*PRESETS, "everything", "odd names"]
)


def containers(objects: list[Manifest]) -> list[Manifest]:
    """All containers, those that run first too."""
    pods = [group["template"] for group in groups_of(objects).values()]
    pods += [item for item in objects if item["kind"] == "Pod"]
    return [
        container
        for pod in pods
        for part in ("initContainers", "containers")
        for container in pod["spec"].get(part, [])
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_helm_finds_nothing_wrong(preset: str) -> None:
    values = str(CHART / "presets" / f"{preset}.yaml")
    done = helm("lint", "--strict", str(CHART), "-f", values, "--set", f"image.repository={IMAGE}")
    assert done.returncode == 0, done.stdout + done.stderr


@each_case
@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_objects_fit_the_strict_schemas(
    preset: str, options: tuple[str, ...], version: str
) -> None:
    """Pod templates inside the RayService are checked too, which its own server does not."""
    schema = kubernetes_schema(version)
    objects = manifests(preset, *options)
    checked = [(item["kind"], item) for item in objects if item["kind"] in schema["kinds"]]
    checked += [("PodTemplateSpec", group["template"]) for group in groups_of(objects).values()]
    for kind, item in checked:
        reference = {**schema, "$ref": f"#/$defs/{schema['kinds'][kind]}"}
        jsonschema.Draft202012Validator(reference).validate(item)
    assert {kind for kind, _ in checked} >= {"ConfigMap", "NetworkPolicy", "PodDisruptionBudget"}


@each_case
def test_custom_resources_fit_their_definitions(preset: str, options: tuple[str, ...]) -> None:
    """With no unknown property anywhere."""
    definitions = {
        "RayService": "ray.io_rayservices",
        "PodMonitor": "monitoring.coreos.com_podmonitors",
        "PrometheusRule": "monitoring.coreos.com_prometheusrules",
    }
    for item in manifests(preset, *options):
        if item["kind"] in definitions:
            schema = custom_schema(definitions[item["kind"]])
            jsonschema.Draft202012Validator(schema).validate(item)


def test_a_misspelt_property_of_a_custom_resource_is_seen() -> None:
    """Else the test above could not fail."""
    service = json.loads(json.dumps(of_kind(manifests("quickstart"), "RayService")))
    service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplica"] = 3
    validator = jsonschema.Draft202012Validator(custom_schema("ray.io_rayservices"))
    assert ["maxReplica" in error.message for error in validator.iter_errors(service)] == [True]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set=image.tag=latest"], "'/image/tag'"),
        (["--set=image.repository="], "image.repository: name the image"),
        (["--set=image.repository="], "`make image IMAGE=registry.example/s2d-ray` builds one"),
        (["--set=routers.replicas=3"], "'routers'"),
        (["--set=router.replicas=1"], "'/router/replicas'"),
        (["--set=config.targets.smollm2-135m.max_bach=3"], "'max_bach'"),
        (["--set=config.targets.smollm2-135m.max_batch=many"], "max_batch'"),
        (["--set=config.targets=null"], "'/config/targets': got null"),
        (["--set=config.http.host=127.0.0.1"], "config.http.host: must be 0.0.0.0"),
        (["--set=config.http.allow_unauthenticated=false"], "config.http.allow_unauthenticated"),
        (
            [f"{TENANCY},config.tenancy.state_dir=/var/lib/s2d"],
            "secrets.tenants.existingSecret: name the Secret of the tenants file",
        ),
        (["--set=secrets.tenants.existingSecret=a"], "secrets.tenants.existingSecret: nothing"),
        ([TENANTS, f"{TENANCY},config.tenancy.state_dir=state"], "config.tenancy.state_dir: must"),
        ([TENANTS, f"{TENANCY},config.tenancy.state_dir=/models"], "config.tenancy.state_dir: "),
        (
            [TENANTS, f"{TENANCY},config.tenancy.state_dir=/a/b"],
            "config.tenancy.state_dir: must not",
        ),
        (
            [TENANTS, "--set=config.tenancy.file=/etc/t.yaml,config.tenancy.state_dir=/a/c"],
            "config.tenancy.file: must lie in a folder of its own",
        ),
        (
            ["--set=config.targets.smollm2-135m.placement=gpu"],
            "config.targets.smollm2-135m.placement: must be one of placements: cpu",
        ),
        (
            ["--set=config.targets.smollm2-135m.device=cuda"],
            "config.targets.smollm2-135m.num_gpus: a replica takes 1, but a pod of placements.cpu",
        ),
        (
            ["--set=config.targets.smollm2-135m.num_replicas=5"],
            "config.targets.smollm2-135m.num_replicas: is 5, but placements.cpu.max, 2, has room "
            "for 4 (CPUs: a replica takes 1, a pod has 2)",
        ),
        (
            ["--set=config.targets.smollm2-135m.autoscaling.max_replicas=5"],
            "config.targets.smollm2-135m.autoscaling.max_replicas: is 5, but placements.cpu.max",
        ),
        (
            ["--set=config.targets.smollm2-135m.num_replicas=4"],
            "placements.cpu.max: its pods, 2, have 4 CPUs together, but "
            "config.targets.smollm2-135m.num_replicas and "
            "config.targets.smollm2-135m-int8.num_replicas take 5",
        ),
        (["--set=config.draft.device=cuda"], "config.draft.device"),
        (["--set=monitoring.alerts.thresholds.firstTokenS=3"], "thresholds/firstTokenS'"),
        (["--set=monitoring.alerts.thresholds.servedShare=1"], "thresholds/servedShare'"),
        (["--set=extraLabels.app\\.kubernetes\\.io/name=a"], "'app.kubernetes.io/name'"),
        (["--set=placements.cpu.rayLabels.s2d-ray/cpu=no"], "'s2d-ray/cpu'"),
        (["--set=placements.cpu.min=3"], "placements.cpu.max: 2 is less than min, 3"),
        (
            ["--set=config.targets.smollm2-135m.num_replicas=3"],
            "config.targets.smollm2-135m.surge: placements.cpu.max, 2, has no room for one more "
            "replica (4 CPUs in all, 4 taken)",
        ),
        (
            ["--set-string=placements.cpu.resources.limits.cpu=750m"],
            "placements.cpu.max, 2, has no room for one more replica (2 CPUs in all, 2 taken)",
        ),
        (['--set-json=placements={"p":{"min":1,"max":1,"resources":{"limits":{}}}}'], "'memory'"),
        (["--set=modelCache.type=claim"], "modelCache.existingClaim"),
        (["--set=config.http.max_request_s=660"], "terminationGracePeriodSeconds: must be more"),
        (["--set=terminationGracePeriodSeconds=605"], "than the 605 s that replicas may take"),
        (["--set=autoscaling.gpuIdleTimeoutSeconds=60"], "'/autoscaling/gpuIdleTimeoutSeconds'"),
        (["--set=secrets.hub.token=abc"], "'token'"),
        (["--set=planFile=text"], "planFile: nothing reads it; set config.plans to /etc/s2d-ray"),
        (["--set=config.plans=/etc/s2d-ray/plans.json"], "config.plans: give the file's contents"),
        (
            ['--set-json=placements={"draft":{"max":1}}'],
            "invalid propertyName 'draft'",
        ),
    ],
)
def test_a_wrong_value_is_refused_naming_its_key(options: list[str], words: str) -> None:
    done = attempt("quickstart", *options)
    assert done.returncode != 0
    assert words in done.stderr


GPUS = "placements.four-gpus.max=2,config.targets.llama-70b"
EIGHT = "placements.four-gpus.resources.limits.nvidia\\.com/gpu=8"


@pytest.mark.parametrize(
    "options",
    [
        ("quickstart", "--set=placements.cpu.resources.limits.cpu=1001m"),
        ("quickstart", "--set=config.targets.smollm2-135m.autoscaling.max_replicas=4"),
        ("gpu", f"--set={GPUS}.num_replicas=2"),
        ("gpu", f"--set={GPUS}.autoscaling.max_replicas=4,{EIGHT}"),
    ],
)
def test_what_may_fit_is_rendered(options: tuple[str, ...]) -> None:
    """KubeRay rounds a pod's CPUs up; targets that share a placement may take turns."""
    assert attempt(*options).returncode == 0


def test_replicas_that_their_pods_cannot_hold_are_refused_by_gpus_too() -> None:
    for option in (f"--set={GPUS}.num_replicas=3", f"--set={GPUS}.autoscaling.max_replicas=5"):
        done = attempt("gpu", option)
        assert "placements.four-gpus.max, 2, has room for 2 (GPUs: a replica" in done.stderr


@each_case
def test_every_container_is_bounded_and_without_rights(
    preset: str, options: tuple[str, ...]
) -> None:
    """Limits, a pinned image, no root, no writing outside of volumes that are there."""
    found = containers(manifests(preset, *options))
    assert len(found) >= 7
    for container in found:
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert container["image"] in (f"{IMAGE}:{__version__}", f"{IMAGE}:1.0")
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["runAsNonRoot"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}


@each_case
def test_every_container_of_ray_can_write_where_it_must(
    preset: str, options: tuple[str, ...]
) -> None:
    """In folders of its own: temp, home, models, and a bounded piece of memory."""
    for group in groups_of(manifests(preset, *options)).values():
        spec = group["template"]["spec"]
        volumes = {item["name"]: item for item in spec["volumes"]}
        for container in (*spec.get("initContainers", []), spec["containers"][0]):
            mounts = {item["mountPath"]: item["name"] for item in container["volumeMounts"]}
            memory = volumes[mounts["/dev/shm"]]["emptyDir"]
            assert memory["medium"] == "Memory"
            assert memory["sizeLimit"]
            assert all("emptyDir" in volumes[mounts[path]] for path in ("/tmp", "/home/s2d"))
            assert "/models" in mounts


def test_a_digest_goes_before_the_tag() -> None:
    digest = "sha256:" + "a" * 64
    objects = manifests("quickstart", f"--set=image.digest={digest}")
    assert {container["image"] for container in containers(objects)} == {f"{IMAGE}@{digest}"}


def test_names_stay_within_what_kuberay_allows() -> None:
    """Of a release with the longest name that Helm takes."""
    release = "r" * 53
    service = of_kind(documents_of(release), "RayService")
    assert len(service["metadata"]["name"]) == 47
    for item in documents_of(release):
        assert len(item["metadata"]["name"]) <= 63


def documents_of(release: str) -> list[Manifest]:
    text = template("quickstart", *EVERYTHING, release=release)
    return [document for document in yaml.safe_load_all(text) if document]


def test_a_name_that_begins_with_a_digit_is_refused() -> None:
    done = attempt("quickstart", release="2d")
    assert done.returncode != 0
    assert "begins with a letter" in done.stderr


def pod_templates(*options: str) -> dict[str, Any]:
    groups = groups_of(manifests("quickstart", *options))
    return {name: group["template"] for name, group in groups.items()}


@pytest.mark.parametrize(
    "option",
    [
        "--set=config.targets.more.model=hub:a/b,config.targets.more.placement=cpu",
        "--set=config.targets.smollm2-135m.model=hub:a/b",
        "--set=config.plan.max_proposal=6",
        "--set=config.draft.base=hub:a/b",
    ],
)
def test_a_new_target_or_model_leaves_the_cluster_as_it_is(option: str) -> None:
    """The pod templates stay the same to the letter, so KubeRay starts no second cluster."""
    assert pod_templates(option) == pod_templates()


def test_each_group_is_the_place_that_its_applications_ask_for() -> None:
    groups = groups_of(manifests("gpu"))
    for name in ("router", "control", "draft", "one-gpu", "four-gpus"):
        assert groups[name]["labels"] == {f"s2d-ray/{name}": "true"}
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("options", [(), ("--set=config.http.max_request_s=100",)])
def test_pods_and_replaced_clusters_outlive_what_replicas_take_to_end(
    options: tuple[str, ...],
) -> None:
    """And a new length of the longest request makes no new cluster."""
    found = manifests("quickstart", *options)
    graces = {
        group["template"]["spec"]["terminationGracePeriodSeconds"]
        for group in groups_of(found).values()
    }
    spec = of_kind(found, "RayService")["spec"]
    drains = {
        deployment["graceful_shutdown_timeout_s"]
        for application in serve_document(found)["applications"]
        for deployment in application.get("deployments", [])
    }
    assert len(drains) == 1
    assert max(drains) < min(*graces, spec["rayClusterDeletionDelaySeconds"])
    assert pod_templates(*options) == pod_templates()


def test_groups_scale_as_they_should() -> None:
    """Two routers apart, one draft never scaled away, GPUs kept ten minutes."""
    groups = groups_of(manifests("gpu"))
    assert groups["router"]["minReplicas"] == 2
    assert groups["router"]["template"]["spec"]["topologySpreadConstraints"]
    assert (groups["draft"]["minReplicas"], groups["draft"]["maxReplicas"]) == (1, 1)
    assert groups["one-gpu"]["idleTimeoutSeconds"] >= 600
    assert groups["router"]["idleTimeoutSeconds"] == 60


def test_pods_have_the_environment_of_s2d_serve() -> None:
    """What `s2d serve` sets for every process, save what belongs to one machine."""
    for container in containers(manifests("quickstart", "--no-hooks")):
        values = {item["name"]: item.get("value") for item in container["env"]}
        assert own_ray.ENVIRONMENT.items() <= values.items()


def test_a_plan_file_reaches_the_pods_and_routers_without_a_new_cluster(tmp_path: Path) -> None:
    """In the folder of the config, which every pod has mounted."""
    text = json.dumps(plan_file(), indent=1)
    (tmp_path / "plans.json").write_text(text)
    path = "/etc/s2d-ray/plans.json"
    options = (f"--set=config.plans={path}", f"--set-file=planFile={tmp_path / 'plans.json'}")
    found = of_kind(manifests("quickstart", *options), "ConfigMap")["data"]
    assert json.loads(found["plans.json"]) == plan_file()
    assert json.loads(found["config.json"])["plans"] == path
    assert pod_templates(*options) == pod_templates()


def test_a_draft_comes_and_goes_without_a_new_cluster() -> None:
    """Its group stays, and has no pods."""
    without = "--set-json=config.draft={}"
    assert groups_of(manifests("quickstart", without))["draft"]["minReplicas"] == 0
    assert pod_templates(without) == pod_templates()


def test_selectors_find_the_pods() -> None:
    """Of the policy, the budget and the monitors: none selects nothing."""
    objects = manifests("quickstart", *EVERYTHING)
    labels = {
        name: group["template"]["metadata"]["labels"] for name, group in groups_of(objects).items()
    }
    policy = of_kind(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert all(policy.items() <= found.items() for found in labels.values())
    spec = of_kind(objects, "PodDisruptionBudget")["spec"]
    assert (spec["minAvailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    budget = spec["selector"]["matchLabels"]
    assert [name for name, found in labels.items() if budget.items() <= found.items()] == ["router"]
    for monitor in (item for item in objects if item["kind"] == "PodMonitor"):
        selector = dict(monitor["spec"]["selector"]["matchLabels"])
        assert selector.pop("ray.io/node-type") in ("head", "worker")  # the operator's label
        assert selector.items() <= labels["router"].items()


def test_the_chart_installs_the_alerts_that_the_command_writes() -> None:
    """The same rules, with the thresholds of the values, whole numbers and tiny ones too."""
    values = {"firstTokenS": 1, "servedShare": 0.99999, "maxWaiting": 5, "runbooks": "https://a/b"}
    options = ("--set=monitoring.alerts.enabled=true",)
    options += (f"--set-json=monitoring.alerts.thresholds={json.dumps(values)}",)
    found = of_kind(manifests("quickstart", *options), "PrometheusRule")["spec"]
    assert found == yaml.safe_load(filled(Thresholds.model_validate(values)))


def test_the_chart_installs_the_dashboards_as_grafana_imports_them() -> None:
    """Each in a ConfigMap of its own, below the megabyte that one may have."""
    objects = manifests("quickstart", "--set=monitoring.dashboards.enabled=true")
    found = [item for item in objects if "-board-" in item["metadata"]["name"]]
    assert all(item["metadata"]["labels"]["grafana_dashboard"] == "1" for item in found)
    pages = {name: text for item in found for name, text in item["data"].items()}
    assert {name: json.loads(text) for name, text in pages.items()} == {
        f"s2d-{page.name}.json": grafana.document(page) for page in DASHBOARDS
    }
    assert max(map(len, pages.values())) < 2**20


def test_nothing_of_monitoring_is_installed_unless_it_is_asked_for() -> None:
    """Its kinds are unknown to a cluster without the Prometheus operator."""
    kinds = {item["kind"] for item in manifests("quickstart")}
    assert not kinds & {"PodMonitor", "PrometheusRule"}
    assert "board" not in json.dumps([item["metadata"] for item in manifests("quickstart")])


def test_files_made_from_the_models_are_committed() -> None:
    """`make chart` writes them."""
    for path, text in chart_files.files_of_chart().items():
        assert (CHART / path).read_text(encoding="utf-8") == text, f"{path}: run make chart"


def test_plain_manifests_are_committed() -> None:
    """`make chart` writes them."""
    made = chart_files.plain_manifests(tool("helm"))
    assert {path.name for path in PLAIN.glob("*.yaml")} == {*made, "kustomization.yaml"}
    for name, text in made.items():
        committed = (PLAIN / name).read_text(encoding="utf-8")
        # Releases of Helm differ in empty lines.
        assert documents(committed) == documents(text), f"{name}: run make chart"


def test_kustomize_replaces_the_image_of_every_container() -> None:
    import subprocess

    command = [tool("kubectl"), "kustomize", str(PLAIN)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    objects = [document for document in yaml.safe_load_all(text) if document]
    [image] = yaml.safe_load((PLAIN / "kustomization.yaml").read_text())["images"]
    expected = f"{image['newName']}:{image['newTag']}"
    assert {container["image"] for container in containers(objects)} == {expected}
    assert image["newTag"] == __version__


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


@pytest.mark.parametrize(
    ("preset", "deployment"),
    [("quickstart", "quickstart"), ("multi-tenant", "quickstart"), ("gpu", "gpu-cluster")],
)
def test_a_preset_serves_what_its_config_in_deployments_serves(
    preset: str, deployment: str
) -> None:
    """They differ in where they listen, whom they ask, and in placements."""
    values = yaml.safe_load((CHART / "presets" / f"{preset}.yaml").read_text())
    config = ChartValues.model_validate(values).config
    ours, theirs = (
        tree.model_dump(exclude={"http", "tenancy"})
        for tree in (config, load_config(ROOT / "deployments" / f"{deployment}.yaml"))
    )
    for tree in (ours, theirs):
        for section in (tree["draft"], *tree["targets"].values()):
            section.pop("placement", None)
    assert ours == theirs


def test_no_file_of_the_chart_names_a_machine_or_holds_a_secret() -> None:
    for path in sorted(Path(CHART).rglob("*")):
        if path.is_file():
            assert not re.search(r"stringData:|kind: Secret", path.read_text()), path


def test_the_notes_name_a_placement_whose_targets_may_ask_for_more_than_it_has() -> None:
    """Only then; no server is asked."""
    values = ("-f", str(CHART / "presets" / "quickstart.yaml"), f"--set=image.repository={IMAGE}")
    install = ("install", "s2d-ray", str(CHART), "--dry-run=client", *values)
    notes = helm(*install, "--set=config.targets.smollm2-135m.autoscaling.max_replicas=4").stdout
    assert "placements.cpu.max: its pods have 4 CPUs together; " in notes
    assert "smollm2-135m and smollm2-135m-int8 take 5" in notes
    notes = helm(*install).stdout
    assert "kubectl port-forward" in notes
    assert "placements.cpu.max" not in notes
