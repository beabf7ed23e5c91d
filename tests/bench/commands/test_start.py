"""What a command imports before it answers, since that is what a user waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.planning import costs
from bench.planning.plan import make_plan
from reproduce.spec import load_experiment

ROOT = Path(__file__).parents[3]
SLOW = {"cv2", "ffcv", "matplotlib", "mlflow", "numba", "pandas", "pyarrow", "ray", "scipy", "sqlalchemy", "torch"}
"""Packages that take a tenth of a second or much more to import."""
CODE = """
import json, sys
from bench.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as error:
    code = error.code
print(json.dumps([code, sorted(sys.modules)]))
"""


def started(*words: str | Path, code: int, **environment: str | Path) -> set[str]:
    """Run a command in a process of its own and return the names of the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    found, modules = json.loads(done.stdout.splitlines()[-1])
    assert found == code, done.stderr
    return set(modules)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["report", "--help"], 0),
        (["pln"], 2),
        (["plan", "quickstrat"], 2),
        (["run", "no-such-file.yaml"], 2),
    ],
)
def test_help_and_a_mistyped_command_or_experiment_need_the_standard_library_alone(words: list[str], code: int) -> None:
    modules = started(*words, code=code)
    assert modules & {*SLOW, "numpy", "psutil", "pydantic", "rich", "yaml"} == set()
    assert len(modules) < 350


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "quickstrat"],
        ["plan", "quickstart", "--arm", "no-such-arm"],
        ["run", "quickstart", "--arm", "no-such-arm"],
        ["run", "quickstart", "--seed", "17"],
        ["slurm", "submit", "quickstart", "--profile", "cpu", "--arm", "no-such-arm"],
    ],
)
def test_a_mistyped_experiment_arm_or_seed_is_named_before_anything_slow_is_imported(
    words: list[str], tmp_path: Path
) -> None:
    assert started(*words, code=2, DEEPER_RECORDS=tmp_path) & SLOW == set()


def test_a_plan_whose_networks_were_counted_before_needs_nothing_slow(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first plan of a version of the code counts them by torch, and says so."""
    monkeypatch.setattr(costs, "cache", lambda: tmp_path / "cache" / "deeper")
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"name: tiny\ndata: {{path: {synthetic_data.name}}}\nrecipe: {{epochs: 1, batch_size: 8, learning_rate: 0.1,"
        " resolution: 32}\narms: {a: {network: {aux: none}}}\nseeds: [0]\n",
        encoding="utf-8",
    )
    said: list[str] = []
    make_plan(load_experiment(file), synthetic_data.parent, said.append)
    assert [text.partition(",")[0] for text in said] == ["counting the costs of 1 network"]
    words = ["plan", file, "--data", synthetic_data.parent, "--records", tmp_path / "records"]
    modules = started(*words, code=0, XDG_CACHE_HOME=tmp_path / "cache")
    assert modules & SLOW == set()
