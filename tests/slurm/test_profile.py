"""Profiles are found by name or path and typed, and every mistake in one is named in one line.

After a change of the fields: DEEPER_GOLDEN=write pytest tests/slurm/test_profile.py writes the README's table.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from reproduce.spec import SpecError
from slurm.job.config import launcher_parser
from slurm.profile import SHIPPED, Profile, load_profile, profiles
from slurm.profile_fields import LauncherOption, fields_with, markdown_table

README = SHIPPED.parent / "README.md"

SMALLEST: dict[str, Any] = {"time": "1:00:00", "cpus_per_node": 4}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder of profiles, which is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "deeper"
    folder.mkdir(parents=True)
    return folder


def written(folder: Path, name: str = "mine", **fields: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**SMALLEST, **fields}), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_a_shipped_profile_is_valid_and_says_what_it_is(name: str) -> None:
    assert load_profile(name).description


def test_fields_that_shipped_profiles_have_commented_out_are_valid(tmp_path: Path) -> None:
    for shipped in SHIPPED.glob("*.yaml"):
        lines = shipped.read_text(encoding="utf-8").splitlines()
        fields = tuple(f"# {field}:" for field in Profile.model_fields)
        kept = [line.removeprefix("# ") if line.startswith((*fields, "#   -")) else line for line in lines]
        path = tmp_path / shipped.name
        path.write_text(
            "\n".join(line.removeprefix("#") for line in kept if not line.startswith("# ")), encoding="utf-8"
        )
        assert load_profile(path) != load_profile(shipped)


def test_a_users_own_profile_is_found_by_name_and_hides_a_shipped_one(own: Path) -> None:
    written(own, "cpu", partition="mine")
    written(own, "lab", partition="lab")
    assert load_profile("cpu").partition == "mine"
    assert load_profile("lab").partition == "lab"
    assert profiles()["cpu"] == own / "cpu.yaml"
    assert profiles()["gpu-nodes"] == SHIPPED / "gpu-nodes.yaml"


def test_a_profile_is_found_by_its_path(tmp_path: Path) -> None:
    assert load_profile(written(tmp_path, nodes=3)).nodes == 3


def test_an_unknown_name_is_answered_with_the_known_ones(own: Path) -> None:
    with pytest.raises(SpecError, match=r"'gpus' is no file .* none of cpu, gpu-nodes, one-gpu-node; .*deeper"):
        load_profile("gpus")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SpecError, match=r"no file nowhere\.yaml"):
        load_profile("nowhere.yaml")


def test_a_list_is_not_a_profile(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- nodes: 2\n", encoding="utf-8")
    with pytest.raises(SpecError, match="a profile is a mapping with description, partition"):
        load_profile(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("04:00:00", 4 * 3600),
        ("2-0", 2 * 86400),
        ("2-06:30", 2 * 86400 + 6 * 3600 + 1800),
        ("1-00:00:30", 86430),
    ],
)
def test_all_of_slurms_forms_of_a_time_are_parsed(time: str, seconds: int) -> None:
    assert Profile(time=time, cpus_per_node=1).seconds == seconds


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpu": 4}, r"gpu: unknown key; known here: account, .*sbatch"),
        ({"nodes": 0}, r"nodes: 0: "),
        ({"time": "soon"}, r"time: 'soon' is not a time limit; write"),
        ({"time": "0:00"}, r"time: '0:00' is not a time limit"),
        ({"time": "1:00", "signal_before_s": 60}, r"signal_before_s: 60 is as long as the job \(60 s"),
        ({"partition": "a b"}, r"partition: 'a b': "),
        ({"container": "apptainer exec 'x"}, r"container: .*: no closing quotation; close every quote"),
        ({"scratch": "tmp"}, r"scratch: 'tmp': "),
        ({"tracking_uri": "sqlite:///x"}, r"tracking_uri: "),
        ({"tracking_uri": "http://me:hunter22@h"}, r"tracking_uri: a user name or password .* set MLFLOW_TRACKING_US"),
        ({"setup": ["export AWS_SECRET_ACCESS_KEY=hunter22"]}, r"setup: the value of AWS_SECRET_ACCESS_KEY would be"),
        ({"sbatch": ["--export=ALL,MY_TOKEN='hunter22'"]}, r"sbatch: the value of MY_TOKEN would be copied"),
        ({"sbatch": ["--comment=two words"]}, r"sbatch: .* is not one option; write --option or --option=value"),
        ({"sbatch": ["-N 2"]}, r"sbatch: '-N 2' is not one option"),
        ({"sbatch": ["--nodes=2"]}, r"sbatch: '--nodes=2': use the profile's field nodes"),
        ({"sbatch": ["--output=x"]}, r"sbatch: '--output=x': the job script sets --output itself"),
        ({"sbatch": ["--comment=x\n--wrap=y"]}, r"sbatch: .* is not one line"),
    ],
)
def test_a_mistake_is_one_line_with_the_field_the_value_and_a_hint(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, **fields)
    with pytest.raises(SpecError, match=message) as caught:
        load_profile(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{path}: ")


def test_a_time_that_yaml_reads_as_a_number_must_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "unquoted.yaml"
    path.write_text("time: 24:00:00\ncpus_per_node: 1\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"line 1: 24:00:00 .* write \"24:00:00\""):
        load_profile(path)


def test_a_container_uses_its_own_python_unless_the_profile_names_one() -> None:
    assert Profile(**SMALLEST, container="apptainer exec x.sif").interpreter == "python"
    assert Profile(**SMALLEST, container="apptainer exec x.sif", python="/opt/py").interpreter == "/opt/py"


# --- fields ----------------------------------------------------------------------------------------


def test_the_readme_lists_all_fields() -> None:
    table = re.compile(r"(?<=<!-- fields of a profile -->\n).*?(?=\n<!-- end of the fields -->)", re.DOTALL)
    text = README.read_text(encoding="utf-8")
    if os.environ.get("DEEPER_GOLDEN") == "write":
        README.write_text(table.sub(lambda _: markdown_table(Profile), text), encoding="utf-8")
    assert table.findall(README.read_text(encoding="utf-8")) == [markdown_table(Profile)]


@pytest.mark.parametrize("field", Profile.model_fields)
def test_every_field_says_what_it_means(field: str) -> None:
    assert Profile.model_fields[field].description


def test_the_launcher_takes_every_option_that_a_profile_gives_it() -> None:
    known = {option for action in launcher_parser()._actions for option in action.option_strings}
    assert {f"--{option.name}" for _, option in fields_with(Profile, LauncherOption)} <= known
