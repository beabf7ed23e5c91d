"""The repository holds to its own rules: arrows between rooms, hashed requirements, links, nothing of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reproduce.grid import plan
from reproduce.spec import load_experiment, shipped_experiments

ROOT = Path(__file__).parent.parent


def tracked_files() -> list[Path]:
    """What git holds or would hold, so that a mistake shows before it is committed."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    return [path for name in listing.stdout.decode().splitlines() if (path := ROOT / name).is_file()]


def imports(room: str) -> Iterator[tuple[Path, str]]:
    """Every module that a room's files import, wherever in the file."""
    for path in sorted((ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((path, f"{node.module}.{alias.name}") for alias in node.names)


# --- arrows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("reproduce", ("ray", "mlflow", "bench", "analysis", "slurm")),
        ("analysis", ("torch", "torchvision", "ffcv", "ray", "bench", "slurm")),
    ],
)
def test_a_room_imports_only_what_it_may(room: str, forbidden: tuple[str, ...]) -> None:
    assert [
        (str(path.relative_to(ROOT)), name) for path, name in imports(room) if name.split(".")[0] in forbidden
    ] == []


def test_only_the_command_line_sits_over_all_rooms() -> None:
    above = {
        path.relative_to(ROOT)
        for path, name in imports("bench")
        if name.split(".")[0] in ("slurm", "analysis") and "commands" not in path.parts and path.name != "cli.py"
    }
    assert above == set()


def test_analysis_shares_nothing_but_the_vocabulary() -> None:
    ours = {name for _, name in imports("analysis") if name.split(".")[0] == "reproduce"}
    assert {name for name in ours if not (name + ".").startswith("reproduce.schema.")} == set()


def test_planning_loads_no_torch() -> None:
    code = "import sys, reproduce.spec, reproduce.schema; sys.exit('torch' in sys.modules or 'ffcv' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- experiments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shipped_experiments())
def test_a_shipped_experiment_has_a_plan(name: str) -> None:
    experiment = load_experiment(name)
    assert experiment.name == name
    path = experiment.data.path
    runs = plan(experiment, data_hashes={path: "-"}, classes={path: 10}, train_images={path: 1_000_000})
    assert len({run.key for run in runs}) == len(experiment.arms) * len(experiment.seeds)


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_pinned_and_hashed(name: str) -> None:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE).replace("\\\n", "")
    requirements = text.splitlines()
    assert requirements
    assert [line for line in requirements if not re.match(r"[\w.\-\[\]]+==\S+.*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_both_locks_agree() -> None:
    pins = [
        set(re.findall(r"^([\w.-]+==\S+)", (ROOT / name).read_text(), flags=re.MULTILINE))
        for name in ("requirements.txt", "requirements-dev.txt")
    ]
    assert pins[0] <= pins[1]


def test_no_file_names_one_machine_or_a_registry() -> None:
    # In pieces, or this file would name them itself.
    hosts = ("pypi" + r"\.org", "python" + "hosted", r"deb\.debian" + r"\.org", "registry" + r"\.npmjs")
    places = (r"(?<![\w.])/" + r"(work|root)/", "/opt/" + "py" + "pi")
    pattern = re.compile("|".join([*hosts, *places]))
    found = []
    for path in tracked_files():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue  # a picture or a Parquet file
        found += [f"{path.relative_to(ROOT)}:{number}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for path in (path for path in tracked_files() if path.suffix == ".md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            place = target.partition("#")[0]
            if place and "://" not in place and not place.startswith("mailto:") and not (path.parent / place).exists():
                dead.append(f"{path.relative_to(ROOT)}: {target}")
    assert dead == []
