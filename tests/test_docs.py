"""The documents keep up with the code: names of what is recorded, the rooms."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reproduce import schema

ROOT = Path(__file__).parent.parent
RECORDS = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = {name: value for name, value in vars(schema).items() if name.isupper() and isinstance(value, str)}


@pytest.mark.parametrize(
    "value", [value for name, value in NAMES.items() if name != "NO_GPU_USED" and "SHARED" not in name]
)
def test_the_page_of_the_record_names_all_that_is_recorded(value: str) -> None:
    words = re.findall(r"[\w./-]+", RECORDS)
    assert any(word == value or (value[-1] in "/." and word.startswith(value)) for word in words), value


def test_the_page_of_the_record_names_no_metric_that_is_not_recorded() -> None:
    prefixes = "train|val|throughput|memory|final|cluster|cost|system"
    named = set(re.findall(rf"`((?:{prefixes})/[a-z0-9_]*[a-z0-9])`", RECORDS))
    assert named - set(NAMES.values()) == set()


def test_the_page_of_the_architecture_lists_every_room() -> None:
    rooms = {
        path.parent.relative_to(ROOT).as_posix()
        for package in ("analysis", "bench", "reproduce", "slurm")
        for path in (ROOT / package).rglob("__init__.py")
    }
    inner = {room for room in rooms if room.count("/") > 1 and not room.startswith("reproduce/data")}
    listed = set(re.findall(r"^\| `([\w/]+)/`", ARCHITECTURE, flags=re.MULTILINE))
    assert rooms - inner - listed == set()
    assert listed - rooms - {"reproduce/experiments", "results", "tests"} == set()


def test_the_readme_fits_a_screen_or_three() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
