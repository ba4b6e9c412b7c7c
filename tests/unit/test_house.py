"""The rules of the house, read off the source: who may import whom, and what stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2d_ray import __version__

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "s2d_ray"
MODULES = sorted(PACKAGE.rglob("*.py"))
STDLIB = sys.stdlib_module_names

LAYERS = {
    "config": {"config", "core", "errors", "policy"},
    "core": {"core", "errors"},
    "models": {"core", "models", "config", "errors"},
    "engine": {"core", "models", "engine", "config", "errors"},
    "policy": {"policy", "errors"},
    "train": {"core", "models", "engine", "train", "config", "errors", "cli", "job_folder"}
    | {"pictures", "bench"},
    "report": {"report", "bench", "errors", "job_folder", "pictures"},
    "kube": {"kube", "changes", "config", "errors", "observe", "tenants"},
    "observe": {"observe", "errors"},
    "advice": {"advice", "core", "policy", "simulate", "config", "errors", "plan_file", "pictures"},
    "simulate": {
        "simulate",
        "core",
        "policy",
        "bench",
        "config",
        "errors",
        "tenants",
        "pictures",
        "cli",
    },
}
"""What each package may import of our own; a layer sees itself and those below."""

FREE_OF_TORCH = [
    "advice/cli.py",
    "advice/report.py",
    "changes.py",
    "cli.py",
    "config/app.py",
    "errors.py",
    "first_config.py",
    "install.py",
    "kube/values.py",
    "plan_file.py",
    "report/cli.py",
    "report/compare.py",
    "report/page.py",
    "preflight.py",
    "tenants.py",
    "core/calibration.py",
    "core/cascade.py",
    "core/cores.py",
    "core/cost_model.py",
    "core/goodput.py",
    "core/replay.py",
    "core/surface.py",
    "core/hashing.py",
    "core/params.py",
    "engine/messages.py",
    "observe/alerts.py",
    "observe/cli.py",
    "observe/pages/__init__.py",
    "pictures.py",
    "serve/engine_calls.py",
    "serve/ingress.py",
    "serve/launcher.py",
    "serve/openai/document.py",
    "serve/run_file.py",
    "serve/signals.py",
    "simulate/cli.py",
    "simulate/report.py",
    "simulate/service.py",
    "train/cli.py",
    "verdict/cli.py",
]


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; `top_only` leaves out those inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = top_level(tree) if top_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            # "from a.b import c" may name the module a.b.c or a member of a.b.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from top_level(child)


def package_of(path: Path) -> str:
    """The sub-package of a module: "core"; for a module right in s2d_ray its own name."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def our_package(name: str) -> str | None:
    """Which of our packages an imported name is in; None for others' packages."""
    parts = name.split(".")
    return parts[1] if parts[0] == "s2d_ray" and len(parts) > 1 else None


def test_the_walk_sees_imports_inside_functions_and_both_forms(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("import ray.serve\ndef f():\n    from torch import nn\n")
    assert list(imports(source)) == ["ray.serve", "torch.nn"]
    assert list(imports(source, top_only=True)) == ["ray.serve"]


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("ray", {"serve", "bench"}),
        ("kubernetes", {"kube"}),
        ("transformers", {"models", "engine", "train", "bench", "serve"}),
        ("torch", {"core", "models", "engine", "train", "bench", "serve", "tuning"}),
        ("fastapi", {"serve"}),
        ("statsmodels", {"advice"}),
    ],
)
def test_a_library_is_imported_only_in_its_homes(library: str, homes: set[str]) -> None:
    strays = [
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if package_of(path) not in homes
        and any(name.split(".")[0] == library for name in imports(path))
    ]
    assert strays == []


@pytest.mark.parametrize("layer", sorted(LAYERS))
def test_a_layer_imports_only_itself_and_those_below(layer: str) -> None:
    strays = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in MODULES
        if package_of(path) == layer
        for name in imports(path)
        if name.startswith("s2d_ray.") and our_package(name) not in LAYERS[layer] | {"__version__"}
    ]
    assert strays == []


@pytest.mark.parametrize(
    ("layer", "libraries"), [("core", {"torch", "numpy"}), ("policy", set[str]())]
)
def test_the_pure_layers_use_hardly_a_library(layer: str, libraries: set[str]) -> None:
    strays = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in MODULES
        if package_of(path) == layer
        for name in imports(path)
        if name.split(".")[0] not in STDLIB | libraries | {"s2d_ray"}
    ]
    assert strays == []


def test_nobody_imports_serve_but_the_command_and_the_benchmarks() -> None:
    importers = {
        package_of(path)
        for path in MODULES
        for name in imports(path)
        if our_package(name) == "serve"
    }
    assert importers <= {"serve", "cli", "bench", "tuning", "verdict"}


def test_nobody_imports_train_but_the_commands() -> None:
    importers = {
        package_of(path)
        for path in MODULES
        for name in imports(path)
        if our_package(name) == "train"
    }
    assert importers == {"train", "verdict", "cli"}


def test_serve_loads_no_torch_before_a_replica_is_built() -> None:
    strays = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in MODULES
        if package_of(path) == "serve"
        for name in imports(path, top_only=True)
        if name.split(".")[0] in ("torch", "transformers")
    ]
    assert strays == []


def test_the_scripts_before_the_installation_use_the_standard_library_alone() -> None:
    for name in ("preflight.py", "install.py"):
        assert {found.split(".")[0] for found in imports(PACKAGE / name)} <= STDLIB


def loaded_by(module: str) -> set[str]:
    code = f"import {module}, sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("path", FREE_OF_TORCH)
def test_the_light_modules_load_no_heavy_library(path: str) -> None:
    module = "s2d_ray." + path.removesuffix(".py").replace("/", ".")
    assert not loaded_by(module) & {"torch", "ray", "transformers", "kubernetes"}


def test_the_changelog_tells_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?{re.escape(__version__)}\b", changelog, re.MULTILINE)


def test_every_python_file_says_what_it_is_for() -> None:
    mute = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert mute == []
