"""The command line as a whole: help, suggestions for mistakes, exit codes and the log of a bug."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from bench import cli
from bench.commands.experiments import listing
from bench.console.exit_codes import BUG, DONE, FAILED, INTERRUPTED, WRONG_INPUT
from reproduce.errors import UserError
from reproduce.spec import shipped_experiments

ROOT = Path(__file__).parents[3]
HEAVY = ("torch", "pandas", "mlflow", "ray", "numpy", "ffcv", "matplotlib", "rich")
OF_THIS_ROOM = (
    *(["doctor"], ["experiments"], ["plan"], ["run"], ["status"], ["dashboard"], ["report"], ["evaluate"]),
    *(["data", "prepare"], ["data", "verify"]),
)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Makes `deeper experiments` raise whatever is put into this list."""
    errors: list[BaseException] = []

    def fail(*_: object) -> None:
        raise errors[0]

    monkeypatch.setattr(listing, "_described", fail)
    return errors


# --- help and mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["claims", "--id", "nope"],
        ["claims", "--ledger", "nope.toml"],
        ["evaluate", "nope"],
        ["predict", "nope", "picture.jpg"],
        ["export", "nope", "--format", "onnx", "--output", "new.onnx"],
        ["verify", "nope"],
        ["report", "nope"],
        ["run", "nope"],
        ["bench", "training", "nope"],
    ],
)
def test_a_name_that_nobody_knows_is_reported_before_what_is_slow_to_import(words: list[str], tmp_path: Path) -> None:
    code = f"""
import sys
from bench import cli
try:
    code = cli.main({words!r})
except SystemExit as ended:
    code = ended.code
sys.exit(f"{{code}} {{[name for name in ('torch', 'mlflow', 'ray', 'scipy', 'matplotlib') if name in sys.modules]}}")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.stderr.splitlines()[-1] == f"{WRONG_INPUT} []", done.stderr


@pytest.mark.parametrize("words", OF_THIS_ROOM)
def test_the_help_of_a_command_is_made_of_sentences_and_examples(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    description = text.split("\n\n")[1]
    assert description[0].isupper()
    assert description.endswith(".")
    assert f"examples:\n  deeper {' '.join(words)}" in text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert re.fullmatch(r"deeper \d+\.\d+\.\d+", capsys.readouterr().out.strip())


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["rnu", "quickstart"], "`deeper` has no 'rnu'; did you mean run?"),
        (["data", "prepar"], "`deeper data` has no 'prepar'; did you mean prepare?"),
        (["slurm", "sumbit"], "`deeper slurm` has no 'sumbit'; did you mean submit?"),
    ],
)
def test_a_mistyped_command_is_answered_with_the_nearest_and_the_list(
    words: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == WRONG_INPUT
    first, second = capsys.readouterr().err.splitlines()
    assert suggestion in first
    assert second.startswith("deeper: valid: ")


@pytest.mark.parametrize("command", ["plan", "run", "status", "report"])
def test_a_mistyped_experiment_is_answered_with_the_nearest(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "quikstart", "--records", str(tmp_path)]) == WRONG_INPUT
    assert capsys.readouterr().err.endswith("; did you mean quickstart?\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["study", "study"], "'study' is named twice, so that there is nothing to compare"),
        (["study", "other", "--plan", "1f0c"], "write it as NAME@plan=HASH"),
        (
            ["study@host=x", "other"],
            "'study@host=x' does not select runs of an experiment; give NAME, or NAME@machine=",
        ),
        (["study@records=/nowhere", "other"], "names the folder /nowhere, which does not exist"),
    ],
)
def test_two_experiments_that_cannot_be_compared_are_told(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", *words, "--records", str(tmp_path)]) == WRONG_INPUT
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], (*HEAVY, "pydantic")),
        (["rnu"], (*HEAVY, "pydantic")),
        (["plan", "quikstart"], HEAVY),
        (["run", "quikstart"], HEAVY),
    ],
)
def test_help_and_mistakes_load_nothing_heavy(words: list[str], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys; from bench.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print(sorted(set({heavy}) & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *words]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True)
    assert answer.stderr.splitlines()[-1] == "[]"


# --- experiments -----------------------------------------------------------------------------------------


def test_experiments_lists_each_shipped_one_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["experiments"]) == DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == shipped_experiments()
    (quickstart,) = (line for line in lines if line.startswith("quickstart "))
    assert re.split(r"\s{2,}", quickstart)[1:3] == ["4 x 2", "fashion-mnist"]


def test_experiments_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["experiments", "--json"]) == DONE
    entries = json.loads(capsys.readouterr().out)
    assert {"name", "arms", "seeds", "data", "description"} == set(entries[0])


# --- exit codes ------------------------------------------------------------------------------------------


def test_the_exit_codes_are_those_that_scripts_know() -> None:
    assert (DONE, FAILED, WRONG_INPUT, BUG, INTERRUPTED) == (0, 1, 2, 70, 75)


def test_ctrl_c_is_an_interruption(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(KeyboardInterrupt())
    assert cli.main(["experiments"]) == INTERRUPTED
    assert capsys.readouterr().err == "deeper: interrupted\n"


def test_a_users_mistake_is_its_message_alone(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(UserError("--images: 0 is too few; use at least 1"))
    assert cli.main(["experiments"]) == WRONG_INPUT
    assert capsys.readouterr().err == "deeper: --images: 0 is too few; use at least 1\n"


def test_a_bug_is_one_line_and_a_log_with_the_traceback(
    failing: list[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failing.append(ValueError("not what was expected\nmore lines"))
    assert cli.main(["experiments"]) == BUG
    (line,) = capsys.readouterr().err.splitlines()
    (log,) = tmp_path.glob("bug-*.log")
    assert line == (f"deeper: this is a bug: ValueError: not what was expected; the traceback is in {log}")
    content = log.read_text(encoding="utf-8")
    assert content.startswith("command: deeper experiments\n")
    assert "Traceback (most recent call last):" in content
    assert content.endswith("ValueError: not what was expected\nmore lines\n")


def test_a_path_that_the_file_system_refuses_is_no_bug(
    failing: list[BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(IsADirectoryError) as refused:
        tmp_path.read_bytes()
    failing.append(refused.value)
    assert cli.main(["experiments"]) == WRONG_INPUT
    assert capsys.readouterr().err == f"deeper: {tmp_path}: Is a directory; mend that, or move it away\n"


def test_the_log_of_a_bug_lies_among_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.records.plan.experiments", lambda records: 1 / 0)
    records = tmp_path / "records"
    assert cli.main(["status", "quickstart", "--records", str(records)]) == BUG
    (log,) = (records / "logs").glob("bug-*.log")
    assert f"ZeroDivisionError: division by zero; the traceback is in {log}" in capsys.readouterr().err


def test_records_that_cannot_be_written_send_the_log_to_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.records.plan.experiments", lambda records: 1 / 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "records").write_text("a file, so that no folder can be made here", encoding="utf-8")
    assert cli.main(["status", "quickstart", "--records", str(tmp_path / "records" / "below")]) == BUG
    assert len(list(tmp_path.glob("bug-*.log"))) == 1


def test_a_bug_shows_no_password(
    failing: list[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("DEEPER_TRACEBACK", "1")
    failing.append(RuntimeError("http://me:hunter22@server does not answer"))
    assert cli.main(["experiments"]) == BUG
    (log,) = tmp_path.glob("bug-*.log")
    for text in (capsys.readouterr().err, log.read_text(encoding="utf-8")):
        assert "http://***@server does not answer" in text
        assert "hunter22" not in text


def test_a_variable_shows_the_traceback_on_the_screen(
    failing: list[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("DEEPER_TRACEBACK", "1")
    failing.append(RuntimeError("unexpected"))
    assert cli.main(["experiments"]) == BUG
    error = capsys.readouterr().err
    assert "Traceback (most recent call last):" in error
    assert error.splitlines()[-1].startswith("deeper: this is a bug: RuntimeError: unexpected; ")


def test_a_reader_that_closes_the_pipe_early_is_no_failure() -> None:
    command = [sys.executable, "-m", "bench.cli", "experiments"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=120) == DONE


def test_an_experiment_without_records_is_to_be_run_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "quickstart", "--records", str(tmp_path)]) == WRONG_INPUT
    assert "run it first: deeper run quickstart" in capsys.readouterr().err


def test_a_current_folder_that_is_gone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main(["status", "quickstart"]) == WRONG_INPUT
    assert capsys.readouterr().err.startswith("deeper: the current folder was removed")
    os.chdir(tmp_path)


def test_a_current_folder_whose_path_is_hidden_from_this_user_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for a user who enters a container from a folder outside of it, below one that only its owner may read."""
    monkeypatch.setattr(os, "getcwd", Mock(side_effect=PermissionError(13, "Permission denied")))
    assert cli.main(["status", "quickstart"]) == WRONG_INPUT
    assert capsys.readouterr().err.startswith("deeper: the path of the current folder cannot be found out")


def test_a_machine_without_a_folder_for_temporary_files_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_found() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setenv("TMPDIR", "/proc/nowhere")
    monkeypatch.setattr("tempfile.gettempdir", none_found)
    assert cli.main(["status", "quickstart"]) == WRONG_INPUT
    assert capsys.readouterr().err.startswith("deeper: TMPDIR: /proc/nowhere: neither this nor the system's")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["experiments"], "deeper: standard output cannot be written: No space left"),
        (["schema", "experiment"], "deeper: standard output cannot be written: No space left"),
        (["status", "nothing"], "deeper: experiment: 'nothing'"),
    ],
)
def test_a_full_disk_below_standard_output_is_named_as_that(words: list[str], sentence: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.cli", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open("/dev/full", "wb") as full:
        for error in (subprocess.PIPE, full):
            done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=full, stderr=error, check=False)
            assert done.returncode == WRONG_INPUT
            if error is subprocess.PIPE:
                [line] = done.stderr.decode().splitlines()
                assert line.startswith(sentence)
