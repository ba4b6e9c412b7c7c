"""The image's files, linted; `make test-image` runs its build."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments" / "image"


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    beside = str(Path(sys.executable).parent)
    program = shutil.which("hadolint", path=beside) or shutil.which("hadolint")
    assert program is not None, "hadolint is not there; `make setup-dev` installs it"
    return subprocess.run([program, "-"], input=text, capture_output=True, text=True, check=False)


def test_the_linter_finds_nothing_in_the_dockerfile() -> None:
    """And would find something, if there was something."""
    text = (FOLDER / "Dockerfile").read_text()
    done = hadolint(text)
    assert (done.returncode, done.stdout) == (0, "")
    assert "DL3006" in hadolint(text.replace(":bookworm-slim", "")).stdout
    assert "DL4000" in hadolint(text + "MAINTAINER nobody\n").stdout


def test_the_build_script_is_whole() -> None:
    subprocess.run(["bash", "-n", FOLDER / "build.sh"], check=True)


def copied() -> set[str]:
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    return {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}


def test_what_the_dockerfile_copies_is_all_that_is_handed_to_it() -> None:
    """So that no environment and no history goes to a builder."""
    handed = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert handed[0] == "*"
    assert {line[1:] for line in handed if line.startswith("!")} == copied()


def test_what_the_package_is_made_of_is_copied() -> None:
    """Else its installation in the image fails, after minutes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    parts = [*wheel["packages"], *wheel["force-include"], project["project"]["readme"]]
    assert {Path(part).parts[0] for part in parts} <= copied()
