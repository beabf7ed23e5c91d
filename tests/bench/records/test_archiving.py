"""`deeper archive`: what rocrate reads from the file is what the records hold, and nothing is left out unsaid."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from rocrate.rocrate import ROCrate

from bench.cli import main
from bench.records.plan import read_plan, write_experiment, write_plan
from bench.records.record import Record
from bench.records.states import read_state, run_folder
from reproduce import schema
from reproduce.spec import (
    ArmConfig,
    DataConfig,
    ExperimentConfig,
    NetworkConfig,
    PlannedRun,
    RecipeConfig,
    RunConfig,
    Seeds,
)

RESULTS = Path(__file__).parents[3] / "results" / "ablation-imagenette"
NAME = "ablation-imagenette"


def archive(records: Path, name: str, output: Path, *more: str) -> int:
    return main(["archive", name, "--records", str(records), "--license", "CC-BY-4.0", "--output", str(output), *more])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("archive") / "ablation.zip"
    author = ("--author", "Ann Lee (0000-0002-1825-0097)")
    assert archive(RESULTS / "records", NAME, output, *author, "--report", str(RESULTS / "report")) == 0
    return output


def by_id(crate: ROCrate, identifier: str) -> Any:
    entity = crate.get(identifier)
    assert entity is not None, identifier
    return entity


def test_each_run_is_an_action_with_its_program_data_and_result(packed: Path) -> None:
    crate = ROCrate(packed)
    assert crate.root_dataset["license"].id == "https://spdx.org/licenses/CC-BY-4.0"
    assert crate.root_dataset["author"].id == "https://orcid.org/0000-0002-1825-0097"
    entries = read_plan(RESULTS / "records", NAME)
    assert [action.id for action in crate.root_dataset["mentions"]] == [f"#run-{entry.key}" for entry in entries]
    for entry in entries:
        action, state = by_id(crate, f"#run-{entry.key}"), read_state(run_folder(RESULTS / "records", entry.key))
        assert action["name"] == entry.name
        assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
        result = action["result"]
        assert result.id == f"records/runs/{entry.key}/"
        figures = {figure["name"]: figure["value"] for figure in result["variableMeasured"]}
        assert figures[schema.FINAL_TOP1] == state.metrics[schema.FINAL_TOP1]
        programs = action["instrument"] if isinstance(action["instrument"], list) else [action["instrument"]]
        assert all("commit" in program["softwareVersion"] for program in programs)


def test_the_file_holds_all_that_it_names_and_nothing_else(packed: Path) -> None:
    crate = ROCrate(packed)
    with zipfile.ZipFile(packed) as file:
        names = set(file.namelist())
        for entity in crate.data_entities:
            assert entity.id in names
        for name in names:
            if name.startswith("records/") and not name.endswith("/"):
                by_id(crate, name)
                assert file.read(name) == (RESULTS / name).read_bytes()
    assert {"report/index.html", "ro-crate-metadata.json"} <= names


def test_an_unpacked_archive_is_a_folder_of_records(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as file:
        file.extractall(tmp_path)
    assert read_plan(tmp_path / "records", NAME) == read_plan(RESULTS / "records", NAME)
    for entry in read_plan(RESULTS / "records", NAME):
        folders = [run_folder(records, entry.key) for records in (tmp_path / "records", RESULTS / "records")]
        assert read_state(folders[0]) == read_state(folders[1])


def planned(seed: int) -> PlannedRun:
    config = RunConfig(
        data=DataConfig(path="d"),
        data_hash="0",
        network=NetworkConfig(classes=2),
        recipe=RecipeConfig(epochs=1, batch_size=2, learning_rate=0.1),
        seeds=Seeds.of(seed),
        workers=1,
    )
    return PlannedRun(experiment="tiny", arm="none", seed=seed, config=config)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Records of an experiment of three runs: one is finished, one has failed, one has not begun."""
    runs = [planned(seed) for seed in range(3)]
    for run, outcome, error in ((runs[0], schema.FINISHED, None), (runs[1], schema.FAILED, "the loss is <NaN>")):
        folder = run_folder(tmp_path, run.key)
        keeper = Record(folder)
        machine = {"cpu": "A & B", "hostname": "h"}
        environment = {"commit": "abc", "dirty": True, "packages": {"deeper": "0.1.0"}, "machine": machine, "gpus": []}
        keeper.begin(run.config, environment=environment, world_size=1, device="cpu")
        keeper.end(outcome, metrics={schema.FINAL_TOP1: 0.5}, error=error)
        for name in ("checkpoint.pt", "log.txt", "code-1.diff"):
            (folder / name).write_text(name, encoding="utf-8")
    write_plan(tmp_path, "tiny", runs, {})
    return tmp_path


def test_what_is_not_finished_is_said(records: Path) -> None:
    output = records / "a.zip"
    assert archive(records, "tiny", output) == 0
    crate = ROCrate(output)
    assert "1 of 3 runs are finished" in crate.description
    actions = [by_id(crate, f"#run-{planned(seed).key}") for seed in (0, 1)]
    assert [str(action["actionStatus"]).rpartition("/")[2] for action in actions] == [
        "CompletedActionStatus",
        "FailedActionStatus",
    ]
    assert actions[1]["error"] == "the loss is <NaN>"
    assert crate.get(f"#run-{planned(2).key}") is None
    assert by_id(crate, "#deeper-abc-changed")["softwareVersion"] == "0.1.0, commit abc, with uncommitted changes"


def test_weights_of_finished_runs_come_along_if_asked_for_and_logs_never(records: Path) -> None:
    held = {}
    for name, more in (("without.zip", ()), ("with.zip", ("--weights",))):
        assert archive(records, "tiny", records / name, *more) == 0
        with zipfile.ZipFile(records / name) as file:
            held[name] = {Path(path).name for path in file.namelist()}, [n for n in file.namelist() if ".pt" in n]
    assert "code-1.diff" in held["without.zip"][0]
    assert "log.txt" not in held["with.zip"][0]
    assert held["without.zip"][1] == []
    assert held["with.zip"][1] == [f"records/runs/{planned(0).key}/checkpoint.pt"]


def test_the_description_of_the_experiment_is_that_of_the_archive(records: Path) -> None:
    run = planned(0)
    experiment = ExperimentConfig(
        name="tiny",
        description="Two lines\nof text.",
        data=run.config.data,
        recipe=run.config.recipe,
        arms={"none": ArmConfig()},
        seeds=[0],
    )
    write_experiment(records, experiment)
    assert archive(records, "tiny", records / "a.zip") == 0
    crate = ROCrate(records / "a.zip")
    assert crate.description.startswith("Two lines of text. 1 of 3 runs are finished")
    used = by_id(crate, f"#run-{run.key}")["object"]
    assert [entity.id for entity in used] == ["records/experiments/tiny/experiment.yaml", "#data-0"]


@pytest.mark.parametrize(
    ("name", "output", "more", "message"),
    [
        ("tiny", "a.tar", (), "a.tar' does not end in .zip"),
        ("tiny", "old.zip", (), "old.zip exists; name another file"),
        ("tinny", "a.zip", (), "did you mean tiny?"),
        ("tiny", "a.zip", ("--report", "."), "holds no index.html"),
        ("tiny", "a.zip", ("--plan", "ffff"), "'ffff' names no single plan"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    records: Path, capsys: pytest.CaptureFixture[str], name: str, output: str, more: tuple[str, ...], message: str
) -> None:
    (records / "old.zip").write_text("kept", encoding="utf-8")
    assert archive(records, name, records / output, *more) == 2
    assert message in capsys.readouterr().err
    assert (records / "old.zip").read_text(encoding="utf-8") == "kept"
    assert not (records / "a.zip").exists()


def test_runs_in_hand_and_an_experiment_that_has_not_begun_are_refused(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned(2)
    with Record(run_folder(records, run.key)) as keeper:
        keeper.begin(run.config, environment={}, world_size=1, device="cpu")
        assert archive(records, "tiny", records / "a.zip") == 2
    assert "runs of 'tiny' are being trained: none s2" in capsys.readouterr().err
    write_plan(records, "later", [planned(7)], {})
    assert archive(records, "later", records / "a.zip") == 2
    assert "no run of 'later' has begun" in capsys.readouterr().err
