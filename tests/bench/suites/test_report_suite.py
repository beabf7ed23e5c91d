"""`deeper bench report` on a few runs: what it generates is called generated, and both sizes are measured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.records.states import read_state
from bench.suites.harness.reporting import ResultOutput
from bench.suites.report.generation import write_generated_records
from bench.suites.report.suite import ReportOptions, main
from bench.tracking import sending
from bench.tracking.sending import RejectedError
from reproduce.errors import UserError


def test_generated_records_have_the_files_of_real_ones_and_are_called_generated(tmp_path: Path) -> None:
    assert list(write_generated_records(tmp_path, 5, 3)) == [1, 2, 3, 4, 5]
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 5
    for folder in folders:
        assert {path.name for path in folder.iterdir()} >= {
            *("config.yaml", "environment.json", "events.jsonl", "predictions.parquet", "telemetry.parquet")
        }
        state = read_state(folder)
        assert (state.status, state.epochs_done) == ("finished", 3)
        assert json.loads((folder / "environment.json").read_text(encoding="utf-8"))["commit"] == "generated"
    (experiment,) = (tmp_path / "experiments").iterdir()
    assert experiment.name == "generated-5x3"
    assert "nothing was trained" in (experiment / "experiment.yaml").read_text(encoding="utf-8")


def test_both_sizes_are_published_and_reported(tmp_path: Path) -> None:
    output = ResultOutput(file=tmp_path / "result.json")
    assert main(ReportOptions(runs=80, epochs=2), output=output) == 0
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    (comparison,) = result["comparisons"]
    assert set(comparison["rounds"]) == {"80 runs", "8 runs"}
    for (measurement,) in comparison["rounds"].values():
        assert {"publish, s", "publish, CPU-s", "report, s", "report, peak GiB", "page, MB"} <= set(measurement)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("1", "--server: http://host:1 holds generated-8x2 already, so that nothing would be published"),
        (RejectedError("experiment generated-8x2 is deleted in MLflow"), "--server: experiment generated-8x2 is del"),
    ],
)
def test_a_server_that_holds_the_records_already_is_refused(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception, message: str
) -> None:
    def find_experiment(name: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(sending, "Sender", lambda uri: SimpleNamespace(find_experiment=find_experiment))
    with pytest.raises(UserError, match=message):
        main(ReportOptions(runs=80, epochs=2, server="http://host:1"), output=ResultOutput())
