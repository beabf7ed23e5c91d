"""The options of `deeper bench`."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cli import build_parser, main
from bench.commands.benchmarks.suites import result_output
from bench.results import store as results


def test_output_without_a_file_is_the_folder_of_this_kind_of_machine() -> None:
    arguments = build_parser().parse_args(["bench", "step", "--output"])
    output = result_output(arguments, "step")
    assert output.file == results.COMMITTED / results.this_machine_kind() / "step.json"
    assert result_output(build_parser().parse_args(["bench", "step"]), "step").file is None


def test_json_takes_no_value(tmp_path: Path) -> None:
    arguments = build_parser().parse_args(["bench", "loader", "--json", str(tmp_path)])
    assert arguments.json is True
    assert arguments.folder == tmp_path


@pytest.mark.parametrize("option", ["--repetitions", "--rounds"])
def test_repetitions_have_the_name_of_committed_commands_too(option: str) -> None:
    assert build_parser().parse_args(["bench", "step", option, "4"]).repetitions == 4
    assert build_parser().parse_args(["bench", "step"]).repetitions == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["overhead", "--workers", "99"], "workers: 99 do not fit on"),
        (["overhead", "--repetitions", "0"], "repetitions: 0: use at least 1"),
        (["training", ".", "--batch", "0"], "batch: 0: use at least 1"),
        (["scaling", "--ranks", "99"], "ranks: 99 of"),
        ([], "which suite?"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
