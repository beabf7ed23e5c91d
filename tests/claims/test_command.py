"""`deeper claims` as users type it, with a real MLflow store for empirical claims."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.text import Text

from analysis.claims import decide
from analysis.claims.runs import RunsMeasured
from analysis.frames import Recorded
from analysis.statistics import mean
from bench.cli import main
from reproduce import schema
from reproduce.claims.verdicts import Measured

ROOT = Path(__file__).parents[2]
FLOOR = "100 validation images: binomial standard deviation 3.8 points at 83 %"
ACCURACIES = {"none": [0.80, 0.81, 0.79], "both": [0.85, 0.87, 0.85]}


def heads(recorded: Recorded) -> RunsMeasured:
    """Final top-1 with both heads minus that with none, paired by seed: an example of an empirical measurement."""
    top1 = recorded.finished.pivot(index="seed", columns="network.aux", values=schema.FINAL_TOP1)
    difference = mean(top1["both"] - top1["none"])
    return Measured(values={"difference": difference}, summary="both − none", evidence=f"n = {difference.n} pairs")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A records folder with a tracking store that holds the experiment `heads`."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("records")
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("heads", artifact_location=(folder / "artifacts").as_uri())
    for arm, accuracies in ACCURACIES.items():
        for seed, top1 in enumerate(accuracies):
            tags = {schema.TAG_KEY: f"{arm}{seed}", schema.TAG_ARM: arm, schema.TAG_SEED: str(seed)}
            run = client.create_run(experiment, tags={**tags, schema.TAG_OUTCOME: schema.FINISHED}).info.run_id
            client.log_param(run, "network.aux", arm)
            client.log_metric(run, schema.FINAL_TOP1, top1)
            client.log_metric(run, schema.VAL_TOP1, top1)
            client.set_terminated(run)
    return folder


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two empirical claims about the same difference: above 0, and above 5 points."""
    monkeypatch.setitem(decide.EMPIRICAL, "heads", heads)
    common = {
        "kind": "empirical",
        "statement": "heads help",
        "source": {"document": "S"},
        "claimed": "more",
        "rule": "above",
        "protocol": "pairs",
        "measurement": "heads",
        "experiment": "heads",
        "needs": "3 seeds",
    }
    claims = [
        {**common, "id": f"S-{name}", "parts": [{"of": "difference", "at_least": least}]}
        for name, least in (("any", 0), ("five", 0.05))
    ]
    path = tmp_path / "ledger.yaml"
    path.write_text(yaml.safe_dump({"documents": {"S": "notes"}, "claims": claims}), encoding="utf-8")
    return path


def decided(arguments: list[str], folder: Path) -> dict[str, tuple[str, str]]:
    out = folder / "claims.json"
    assert main(["claims", *arguments, "--output", str(out)]) == 0
    return {
        row["id"]: (row["verdict"], row["evidence"]) for row in json.loads(out.read_text(encoding="utf-8"))["claims"]
    }


@pytest.mark.parametrize("experiment", [[], ["heads"]])
def test_empirical_claims_are_decided_from_recorded_runs(
    records: Path, ledger: Path, tmp_path: Path, experiment: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    findings = decided([*experiment, "--records", str(records), "--ledger", str(ledger)], tmp_path)
    assert findings == {
        "S-any": ("holds", f"n = 3 pairs; {FLOOR}"),
        "S-five": ("not enough runs", f"3 more seeds are needed; n = 3 pairs; {FLOOR}"),
    }


def test_claims_are_decided_by_the_runs_of_one_plan(
    records: Path,
    ledger: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(records / "mlflow.db", tmp_path / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("heads")
    assert experiment is not None
    for digest, seeds in (("0ddba11a", (0, 1, 3)), ("a11a11a1", (0, 1, 2))):
        plan = {arm: {seed: f"{arm}{seed}" for seed in seeds} for arm in ACCURACIES}
        head = json.dumps({"since": 1.0, "by": "a on b", "pieces": 1})
        client.set_experiment_tag(experiment.experiment_id, f"{schema.TAG_PLAN}{digest}.0", json.dumps(plan))
        client.set_experiment_tag(experiment.experiment_id, f"{schema.TAG_PLAN}{digest}", head)
    present = json.dumps({"plan": "0ddba11a", "since": 1.0, "by": "a on b", "records": "/r"})
    client.set_experiment_tag(experiment.experiment_id, f"{schema.TAG_PLANNER}r", present)

    places = ["--records", str(tmp_path), "--ledger", str(ledger)]
    verdict, evidence = decided(["heads", *places], tmp_path)["S-any"]
    assert verdict == "not enough runs"
    assert evidence.endswith("n = 2 pairs; 2 runs of other plans left out")
    told = capsys.readouterr().err
    assert "heads: 4 of 6 planned runs are finished." in told
    assert "heads: 2 other runs under this name are not in plan 0ddba11a and are left out." in told
    assert decided(["heads", "--plan", "a11a", *places], tmp_path)["S-any"] == ("holds", f"n = 3 pairs; {FLOOR}")
    assert main(["claims", "--plan", "a11a", *places]) == 2
    assert "--plan: 'a11a' is a plan of one experiment; name the experiment as well" in capsys.readouterr().err


def test_without_runs_a_claim_is_not_measured_and_a_named_experiment_is_a_mistake(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = ["--records", str(tmp_path / "none"), "--ledger", str(ledger)]
    verdict, evidence = decided(places, tmp_path)["S-any"]
    assert verdict == "not measured here"
    assert evidence == "needs 3 seeds: `deeper run heads`; no run of heads is recorded"
    assert main(["claims", "heads", *places]) == 2
    assert "no store" in capsys.readouterr().err


def test_one_claim_is_shown_with_its_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "claims.md"
    assert main(["claims", "--id", "P-depth", "--markdown", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "layers with parameters" in shown
    assert "Exact, by the network alone: 1 holds" in shown
    assert "| building blocks | 100 ± 10 | 92 (−8 %) | holds |  |" in page.read_text(encoding="utf-8")


def test_mistakes_end_with_code_2_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--static", "quickstart"]) == 2
    assert main(["claims", "--id", "S-none"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "deeper: --static: decides nothing from runs; leave out 'quickstart' or --static"
    assert told[1].startswith("deeper: claim: 'S-none' is not in the ledger; there are S-reduce-example")


def test_static_claims_need_neither_mlflow_nor_ray(tmp_path: Path) -> None:
    code = "import sys; from bench.cli import main; main(['claims', '--static', '--output', sys.argv[1]]); "
    code += "sys.exit('mlflow' in sys.modules or 'ray' in sys.modules)"
    out = tmp_path / "claims.json"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=ROOT, env={**os.environ, "COLUMNS": "120"})
    assert done.returncode == 0
    assert {row["kind"] for row in json.loads(out.read_text(encoding="utf-8"))["claims"]} == {"static"}


def test_no_word_or_number_is_cut_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["claims", "--id", "P-table1", "--id", "S-reduce-example"]) == 0
    piped = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["claims", "--id", "P-table1", "--id", "S-reduce-example"]) == 0
    terminal = Text.from_ansi(capsys.readouterr().out).plain
    assert max(map(len, terminal.splitlines())) <= 80
    words = set(terminal.split()) | set(terminal.replace(":", " ").split())
    assert set(piped.split()) - {"Id"} <= words  # a block begins with its identifier, without a title
    assert "…" not in terminal
