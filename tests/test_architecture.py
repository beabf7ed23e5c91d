"""The rooms: which may import which, how large a module and a room may be, and that each says what it is for."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OURS = ("analysis", "bench", "reproduce", "slurm")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    # What is reproduced. It knows no Ray and no MLflow.
    "reproduce": (),
    # How it is run and measured, from the ground floor up.
    "bench.console": ("reproduce.errors", "reproduce.text.redaction"),
    "bench.machine": ("reproduce",),
    "bench.results": ("bench.machine", "reproduce"),
    "bench.telemetry": ("bench.machine", "reproduce"),
    "bench.records": ("bench.machine", "reproduce"),
    "bench.tracking": ("bench.machine", "bench.records", "reproduce"),
    "bench.planning": ("bench.machine", "bench.records", "bench.results", "reproduce"),
    "bench.orchestration": ("bench.console", "bench.machine", "bench.records", "bench.telemetry", "reproduce"),
    "bench.suites": (
        *("bench.console", "bench.machine", "bench.orchestration", "bench.planning", "bench.records"),
        *("bench.results", "bench.telemetry", "bench.tracking", "analysis", "reproduce"),
    ),
    "bench.commands": (
        *("bench.console", "bench.machine", "bench.orchestration", "bench.planning", "bench.records"),
        *("bench.results", "bench.suites", "bench.telemetry", "bench.tracking", "analysis", "reproduce"),
    ),
    # The composition root: the one place that knows the commands of both.
    "bench.cli": ("bench.commands", "bench.console", "slurm", "reproduce"),
    # From recorded runs to reports.
    "analysis": (
        *(
            "reproduce.errors",
            "reproduce.text",
            "reproduce.schema",
            "reproduce.claims",
        ),
    ),
    # To clusters.
    "slurm": (
        *("bench.console", "bench.machine", "bench.orchestration", "bench.planning", "bench.records"),
        *("bench.results", "bench.suites.harness.inputs", "bench.suites.scaling", "reproduce"),
    ),
}
"""Each room, and the rooms or modules that its modules may import beside those of the room itself."""

MUST_NOT_LOAD = {
    "reproduce": ("ray", "mlflow"),
    "analysis": ("torch", "torchvision", "ffcv", "ray"),
    "bench.orchestration": ("mlflow",),
}
"""Packages of others that a room does without."""


IMPORT_WHAT_A_LOCK_NAMES = ("slurm.bundle.machine",)
"""Modules that import packages of others by names that are data."""


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of ours."""
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path: Path) -> Iterator[str]:
    """Whatever a file imports, wherever in it, calls of `import_module` with a name included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(module)), *_]
            ):
                if name in ("import_module", "__import__"):
                    yield module


def room_of(module: str) -> str:
    return max((room for room in MAY_IMPORT if within(module, room)), key=len, default=module)


def test_every_module_is_in_a_room_of_the_table() -> None:
    outside = [name for name, _ in modules() if room_of(name) not in MAY_IMPORT and name != "bench"]
    assert outside == []


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, path in modules()
        if room_of(name) == room
        for imported in imports(path)
        if imported.split(".")[0] in OURS
        and not any(within(imported, allowed) for allowed in (room, *MAY_IMPORT[room]))
    ]
    assert wrong == []


def test_the_table_has_no_circle() -> None:
    """A room may be named only by rooms further down in the table, which lists them from the ground floor up."""
    order = ["reproduce", "bench", "analysis", "slurm"]
    above = [
        (room, allowed)
        for index, room in enumerate(MAY_IMPORT)
        for allowed in MAY_IMPORT[room]
        if room_of(allowed) in list(MAY_IMPORT)[index:] and room_of(allowed) not in ("analysis", "slurm")
    ]
    assert above == []
    assert {room.split(".")[0] for room in MAY_IMPORT} == set(order)
    assert not any(within(allowed, "bench") for allowed in MAY_IMPORT["analysis"])
    assert not any(
        within(allowed, "slurm") for room in MAY_IMPORT if room != "bench.cli" for allowed in MAY_IMPORT[room]
    )


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports within functions count as well."""
    known = dict(modules())
    graph = {
        name: {
            target
            for imported in imports(path)
            for target in (imported, imported.rpartition(".")[0])
            if target in known and target != name and not within(name, target)
        }
        for name, path in known.items()
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the modules


def test_no_import_of_ours_is_hidden_in_a_computed_name() -> None:
    """`import_module` of a name that is put together at run time would escape the table."""
    hidden = []
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"), args=[first, *_]
                ):
                    if not isinstance(first, ast.Constant) and name not in IMPORT_WHAT_A_LOCK_NAMES:
                        hidden.append(f"{name}:{node.lineno}")
    assert hidden == []


@pytest.mark.parametrize("room", MUST_NOT_LOAD)
def test_a_room_does_without(room: str) -> None:
    found = [
        f"{name} imports {imported}"
        for name, path in modules()
        if within(name, room)
        for imported in imports(path)
        if imported.split(".")[0] in MUST_NOT_LOAD[room]
    ]
    assert found == []


@pytest.mark.parametrize("module", ["reproduce.spec", "reproduce.schema", "analysis.report.writing", "bench.cli"])
def test_what_starts_fast_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'ffcv' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_no_module_is_longer_than_400_lines() -> None:
    paths = [*(path for _, path in modules()), *ROOT.glob("reproduce/native/*.c")]
    sizes = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_no_folder_holds_more_than_ten_modules() -> None:
    counts: dict[Path, int] = {}
    for _, path in modules():
        if path.name != "__init__.py":
            counts[path.parent.relative_to(ROOT)] = counts.get(path.parent.relative_to(ROOT), 0) + 1
    assert {str(folder): count for folder, count in counts.items() if count > 10} == {}


def test_every_folder_says_what_it_is_for() -> None:
    """What comes in and what goes out, in the docstring of its `__init__`."""
    silent = [
        name
        for name, path in modules()
        if path.name == "__init__.py" and len(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") < 60
    ]
    assert silent == []


def test_every_distribution_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = (*project["dependencies"], *extras["archive"], *extras["export"], *extras["kernels"], *extras["peers"])
    declared = {canonicalize_name(Requirement(name).name) for name in named}
    # `nvidia` is a namespace of many distributions; the one that is imported, DALI, is an extra.
    known = {*OURS, *sys.stdlib_module_names, "nvidia"}
    roots = {name.split(".")[0] for _, path in modules() for name in imports(path)} - known
    owners = packages_distributions()
    assert {root for root in roots if not declared & set(map(canonicalize_name, owners.get(root, (root,))))} == set()
