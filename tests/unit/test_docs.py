"""The documents name every key, route and file there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2d_ray.config import (
    AppConfig,
    AutoscalingConfig,
    ControlConfig,
    DraftConfig,
    HttpConfig,
    PlanConfig,
    PlanRow,
    PricesConfig,
    RoutedTarget,
    RoutingConfig,
    Section,
    TargetConfig,
    TelemetryConfig,
    TenancyConfig,
)
from s2d_ray.kube.chart_files import presets
from s2d_ray.kube.cli import kube_app
from s2d_ray.models_cli import QUICKSTART
from s2d_ray.policy.limits import Reason
from s2d_ray.tenants import KeyConfig, OwnerConfig, TenantConfig, TenantsFile

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "section",
    [
        *(AppConfig, HttpConfig, PlanConfig, DraftConfig, TargetConfig, TenancyConfig),
        *(AutoscalingConfig, RoutingConfig, RoutedTarget, PlanRow, ControlConfig, TelemetryConfig),
        PricesConfig,
    ],
)
def test_every_config_key_is_documented_with_its_meaning(section: type[Section]) -> None:
    """A key that is added without a row in the table fails here."""
    document = (ROOT / "docs" / "configuration.md").read_text()
    for name, field in section.model_fields.items():
        assert field.description, f"{section.__name__}.{name} has no description"
        assert f"| `{name}` |" in document
        assert field.description in document


@pytest.mark.parametrize("section", [TenantsFile, OwnerConfig, TenantConfig, KeyConfig])
def test_every_key_of_the_tenants_file_is_documented(section: type[Section]) -> None:
    document = (ROOT / "docs" / "tenants.md").read_text()
    for name, field in section.model_fields.items():
        assert field.description in document
        assert f"| `{name}` |" in document


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_a_refusal_is_documented(reason: Reason) -> None:
    assert f"`{reason}`" in (ROOT / "docs" / "tenants.md").read_text()


def test_the_readme_shows_the_tree_that_is_there() -> None:
    """Every folder and file of the tree in the README exists, and no package is missing."""
    text = (ROOT / "README.md").read_text()
    tree = text.split("## Tree", 1)[1].split("```")[1]
    package = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")}
    folders = {
        path.name for path in (ROOT / "s2d_ray").iterdir() if (path / "__init__.py").exists()
    }
    assert folders <= package
    for folder in ("deployments", "docs", "tests"):
        assert f"{folder}/" in tree
    pages = (
        "configuration",
        "api",
        "api-reference",
        "how-it-works",
        "tutorial",
        "routing",
        "training",
        "kubernetes",
        "exactness",
        "benchmarks",
        "decisions",
    )
    for page in pages:
        assert (ROOT / "docs" / f"{page}.md").exists()


def test_the_quickstart_names_the_source_that_pull_fetches() -> None:
    """`s2d models pull` without arguments is the quickstart's model, hash and all."""
    assert f'"{QUICKSTART}"' in (ROOT / "deployments" / "quickstart.yaml").read_text()


def test_the_page_on_kubernetes_names_every_command_and_preset() -> None:
    document = (ROOT / "docs" / "kubernetes.md").read_text()
    commands = [command.callback.__name__ for command in kube_app.registered_commands]
    assert [name for name in commands if f"| `{name} " not in document] == []
    assert [name for name in presets() if f"| `{name}` |" not in document] == []
