"""The image's build in a bare Debian, and what it made as it runs on Kubernetes: `make test-image`.

There is no daemon of containers here. The test follows the Dockerfile itself, line by line, in a
root that debootstrap made, and then starts commands in it as the chart's pods do: as user 1000
without any right, on a read-only file system, with volumes where the chart has them, without a
network but loopback. It needs root, debootstrap, iproute2 and some minutes, so it is no part of
`make test`. Wheels are fetched outside and handed in as a folder; torch is the one that the package
index here gives.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from s2d_ray.install import PIP, torch_pin
from tests.kube.rendering import groups_of, manifests, of_kind

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "deployments" / "image"
SUITE, PYTHON = "bookworm", (3, 11)
ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child")


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """The lines of a Dockerfile: what to do, and with what."""
    lines = dockerfile.read_text().splitlines()
    pairs = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    return [(word, rest) for word, rest in pairs]


@dataclass
class Root:
    """A file system that becomes an image, and the settings of its processes."""

    path: Path
    variables: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"

    def follow(self, word: str, rest: str, wheels: Path) -> None:
        """Do what one line of the Dockerfile says. Fails for a word that is not known."""
        if word == "COPY":
            *sources, place = rest.split()
            for source in sources:
                self._copy(ROOT / source, self.path / place.lstrip("/"))
        elif word == "RUN":
            self._build(rest, wheels)
        elif word in ("ENV", "ARG"):
            name, _, value = rest.partition("=")
            self.variables[name] = value.strip('"')
        elif word == "USER":
            self.user = rest
        else:
            assert word in ("FROM", "WORKDIR", "CMD"), f"the test knows no {word}"

    def _copy(self, source: Path, place: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)

    def _build(self, command: str, wheels: Path) -> None:
        handed = self.path / "wheels"
        handed.mkdir()
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = {"PATH": path, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"} | self.variables
        script = f"""
            mount --make-rprivate /
            mount -t proc proc {self.path}/proc
            mount --bind {wheels} {handed}
            exec chroot {self.path} env -i {shlex.join(f"{k}={v}" for k, v in words.items())} \
                sh -c {shlex.quote(command)}"""
        subprocess.run([*ISOLATED, "sh", "-euc", script], check=True, stdin=subprocess.DEVNULL)
        handed.rmdir()

    def run(self, config: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a pod of the chart does; the caller looks at its status."""
        pod = groups_of(manifests("quickstart"))["cpu"]["template"]["spec"]
        container = pod["containers"][0]
        variables = self.variables | {e["name"]: e["value"] for e in container["env"]}
        user, _, group = self.user.partition(":")
        mounts = [
            f"mount -t tmpfs -o mode=1777 tmpfs {self.path}{mount['mountPath']}"
            for mount in container["volumeMounts"]
            if mount["name"] != "config"
        ]
        script = "\n".join(
            [
                "ip link set lo up",
                "mount --make-rprivate /",
                f"mount --bind {self.path} {self.path}",
                f"mount -o remount,bind,ro {self.path}",
                f"mount -t proc proc {self.path}/proc",
                *mounts,
                f"mount --bind {config} {self.path}/etc/s2d-ray",
                f"exec chroot {self.path} setpriv --reuid={user} --regid={group} --clear-groups "
                "--no-new-privs --bounding-set=-all --inh-caps=-all "
                f"env -i {shlex.join(f'{k}={v}' for k, v in variables.items())} "
                f"{shlex.join(command)}",
            ]
        )
        return subprocess.run(
            [*ISOLATED, "--net", "sh", "-euc", script],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )


def fetch_wheels(folder: Path) -> None:
    """All that the build may ask for, torch with what it brings on this machine."""
    pins = str(ROOT / "constraints.txt")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    subprocess.run([*download, "--constraint", pins, torch_pin(ROOT), PIP], check=True)
    subprocess.run([*download, "--no-deps", "--requirement", pins], check=True)


@pytest.fixture(scope="module")
def image() -> Iterator[Root]:
    """The root after the last line of the Dockerfile."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.fail("needs root and debootstrap (apt-get install debootstrap)")
    assert sys.version_info[:2] == PYTHON, "the wheels are fetched for this Python"
    with tempfile.TemporaryDirectory(prefix="s2d-image-") as folder:
        root, wheels = Root(Path(folder) / "root"), Path(folder) / "wheels"
        root.path.mkdir()
        make = ["debootstrap", "--variant=minbase", SUITE, str(root.path)]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        fetch_wheels(wheels)
        for word, rest in instructions(IMAGE / "Dockerfile"):
            root.follow(word, rest, wheels)
        yield root


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The folder that the chart's ConfigMap makes of the quickstart."""
    tmp_path.chmod(0o755)
    data = of_kind(manifests("quickstart"), "ConfigMap")["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_build_stands_on_the_debian_that_the_test_makes() -> None:
    [base] = [rest for word, rest in instructions(IMAGE / "Dockerfile") if word == "FROM"]
    assert base == f"debian:{SUITE}-slim"


def test_s2d_check_starts_as_a_user_without_rights_on_a_read_only_file_system(
    image: Root, config: Path
) -> None:
    done = image.run(config, "s2d", "check", "/etc/s2d-ray/config.json")
    assert done.returncode == 0, done.stderr
    assert "well-formed; targets: smollm2-135m, smollm2-135m-int8" in done.stdout


def test_the_file_system_is_read_only_and_the_user_has_no_rights(image: Root, config: Path) -> None:
    """Else the test above would say less than its name."""
    done = image.run(config, "sh", "-c", "id -u; grep CapEff /proc/self/status; touch /opt/here")
    assert done.stdout.split() == ["1000", "CapEff:", "0" * 16]
    assert "Read-only file system" in done.stderr


def test_the_heavy_libraries_load(image: Root, config: Path) -> None:
    code = "import ray, torch, transformers; print(torch.ones(2).sum().item(), ray.__version__)"
    done = image.run(config, "python", "-c", code)
    assert done.stdout.startswith("2.0 2."), done.stderr


def test_what_kuberay_and_the_chart_call_is_there(image: Root, config: Path) -> None:
    """In a login shell too, which sets a path of its own."""
    script = "command -v bash wget timeout tail && ray --version && s2d --version"
    done = image.run(config, "bash", "-lc", script)
    assert done.returncode == 0, done.stderr


def test_no_model_is_in_the_image_but_drafts_that_the_package_ships(image: Root) -> None:
    shipped = image.path / "opt" / "s2d-ray" / "s2d_ray"
    found = [
        path
        for ending in ("safetensors", "gguf")
        for path in image.path.rglob(f"*.{ending}")
        if not path.is_relative_to(shipped)
    ]
    assert found == []


def test_ray_s_head_starts_in_it(image: Root, config: Path) -> None:
    """As user 1000 too, with nothing to write to but the pod's volumes."""
    start = "ray start --head --node-ip-address=127.0.0.1 --num-cpus=0"
    start += " --object-store-memory=104857600"
    until = "timeout 120 bash -c 'until ray status | grep \"Total Usage\"; do sleep 1; done'"
    done = image.run(config, "bash", "-c", f"{start} && {until}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Total Usage:" in done.stdout
