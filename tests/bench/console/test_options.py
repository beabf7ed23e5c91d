"""The values of options: what is valid, and what a wrong one is answered with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import cli
from bench.console.options import (
    cluster_address,
    file,
    folder,
    name,
    not_negative_number,
    number,
    output_file,
    output_folder,
    port,
    positive_number,
    whole_number,
)

READERS: tuple[Callable[[str], Any], ...] = (
    *(cluster_address, file, folder, name, not_negative_number, output_file, output_folder, port, positive_number),
    *(number(0.5, 2), whole_number(0)),
)


@given(
    st.sampled_from(READERS), st.text() | st.sampled_from(["nan", "inf", "-1", "0", "1e999", "9" * 5000, "x" * 5000])
)
def test_any_value_is_read_or_answered_with_a_sentence(read: Callable[[str], Any], text: str) -> None:
    try:
        read(text)
    except argparse.ArgumentTypeError as error:
        said = str(error)
        assert len(said) < 250


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "quickstart", "--telemetry-hz", "0"], "--telemetry-hz: '0' is not a positive number"),
        (["run", "quickstart", "--heartbeat-s", "nan"], "--heartbeat-s: 'nan' is not a positive number"),
        (["run", "quickstart", "--telemetry-hz", "1e300"], "--telemetry-hz: '1e300' is not from 0.001 to 100"),
        (["run", "quickstart", "--heartbeat-s", "1e-300"], "--heartbeat-s: '1e-300' is not from 0.01 to 3600"),
        (["run", "quickstart", "--stop-file", "FOLDER"], "FOLDER' is a folder; name a file"),
        (["run", "quickstart", "--records", ""], "--records: '' is no path; name a place"),
        (["plan", "quickstart", "--output", ""], "--output: '' is no path; name a place"),
        (["verify", ""], "results: '' is no path; name a place"),
        (["merge", "", "--into", "x"], "RECORDS: '' is no path; name a place"),
        (["bench", "loader", "nowhere"], "folder: 'nowhere': no such folder; name one that exists"),
        (["bench", "evaluation", ""], "data: '' is no path; name a place"),
        (["report", "quickstart", "--plan", ""], "--plan: '' is no value; give one, or leave it out"),
        (["report", "quickstart", ""], "other: '' is no value; give one, or leave it out"),
        (["run", "quickstart", "--part", ""], "--part: '' is no value; give one, or leave it out"),
        (["run", "quickstart", "--arm", ""], "--arm: '' is no value; give one, or leave it out"),
        (["dashboard", "--host", ""], "--host: '' is no value; give one, or leave it out"),
        (["slurm", "cancel", "7", ""], "JOB|EXPERIMENT: '' is no value; give one"),
        (["bench", "layers", "--output", "FILE/x"], "FILE is not a folder; name another place"),
        (["bench", "layers", "--output", "FOLDER"], "FOLDER' is a folder; name a file"),
        (["bench", "gpu", "--output", "FILE"], "FILE' is not a folder"),
        (["run", "quickstart", "--node-patience-s", "-1"], "--node-patience-s: '-1' is not a positive number"),
        (["run", "quickstart", "--concurrent", "0"], "--concurrent: 0 is not at least 1"),
        (["run", "quickstart", "--concurrent", "-1"], "--concurrent: -1 is not at least 1"),
        (["run", "quickstart", "--address", "bad"], "--address: 'bad' is not the address of a Ray cluster"),
        (["run", "quickstart", "--address", "host:99999"], "--address: 'host:99999' is not the address"),
        (["run", "quickstart", "--seed", "-1"], "--seed: -1 is not at least 0"),
        (["dashboard", "--port", "99999"], "--port: 99999 is not from 1 to 65535"),
        (["status", "quickstart", "--records", "FILE"], "FILE' is not a folder; name a folder"),
        (["status", "quickstart", "--output", "FOLDER"], "FOLDER' is a folder; name a file"),
        (["status", "quickstart", "--output", "FILE/x"], "FILE is not a folder; name another place"),
        (["report", "quickstart", "--output", "FILE"], "FILE' is not a folder"),
        (["claims", "--static", "--markdown", "FOLDER"], "FOLDER' is a folder"),
        (["data", "prepare", "synthetic", "--output", "FILE/x"], "FILE is not a folder"),
        (["data", "prepare", "synthetic", "--output", "x", "--workers", "0"], "--workers: 0 is not at least 1"),
        (["slurm", "render", "quickstart", "--profile", "cpu", "--output", "FILE"], "FILE' is not a folder"),
        (["plan", "quickstart", "--records", "x" * 5000], "cannot be used: File name too long"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_exit_code_2(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("FILE").touch()
    Path("FOLDER").mkdir()
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert sentence in said
    assert len(said) < 300


def test_records_that_cannot_be_made_are_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for words in (["run", "quickstart"], ["publish"], ["dashboard"]):
        assert cli.main([*words, "--records", str(tmp_path / "file" / "records")]) == 2
        assert "file is not a folder; name another place" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["0/4", "5/4", "1/0", "1/" + "9" * 5000, "\u0661/\u0662"])
def test_a_part_that_is_none_is_named(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "quickstart", "--records", str(tmp_path), "--part", part]) == 2
    assert "is not a part; use I/N with I from 1 to N" in capsys.readouterr().err


def test_an_empty_variable_stands_for_the_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPER_RECORDS", "")
    monkeypatch.setenv("DEEPER_DATA", "")
    parsed = cli.build_parser().parse_args(["status", "quickstart"])
    assert (parsed.records, parsed.data) == (Path("records"), Path("data"))


def test_names_are_read_in_one_form_of_unicode() -> None:
    assert name("cafe\u0301") == "caf\u00e9"
