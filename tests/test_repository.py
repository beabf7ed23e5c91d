"""The repository holds to its own rules: arrows between rooms, hashed requirements, links, nothing of one machine."""

from __future__ import annotations

import re
import subprocess
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
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", "")
    requirements = text.splitlines()
    assert requirements
    assert [line for line in requirements if not re.match(r"[\w.\-\[\]]+==\S+.*--hash=sha256:[0-9a-f]{64}", line)] == []


def test_both_locks_agree() -> None:
    pins = [
        set(re.findall(r"^([\w.-]+==\S+)", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE))
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
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture or a Parquet file
        found += [f"{path.relative_to(ROOT)}:{number}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    assert found == []


def test_links_between_documents_lead_somewhere() -> None:
    dead = []
    for path in (path for path in tracked_files() if path.suffix == ".md"):
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
            place = target.partition("#")[0]
            if place and "://" not in place and not place.startswith("mailto:") and not (path.parent / place).exists():
                dead.append(f"{path.relative_to(ROOT)}: {target}")
    assert dead == []
