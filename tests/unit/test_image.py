"""The image's files, linted; `make test-image` runs its build."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "deployments" / "image"


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


def test_what_the_dockerfile_copies_is_all_that_is_handed_to_it() -> None:
    """So that no environment and no history goes to a builder."""
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    handed = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert handed[0] == "*"
    assert {line[1:] for line in handed if line.startswith("!")} == set(sum(copies, []))
