"""Results as text, as JSON on standard output, and as JSON in a file."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from bench.console.options import add_json
from bench.console.output import plain_console, print_result, printable, show
from bench.console.tables import Column, FittedTable
from reproduce.errors import UserError

CONTENT = {"run": "a s0"}


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_json(parser)
    return parser.parse_args(words)


def text() -> None:
    print("the text")


@pytest.mark.parametrize("columns", ["0", "1", "20"])
def test_no_width_of_the_terminal_hides_a_text(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    show(plain_console(), "10 runs")
    assert capsys.readouterr().out == "10 runs\n"


def test_without_options_a_result_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(options(), CONTENT, text)
    assert capsys.readouterr().out == "the text\n"


def test_json_goes_to_standard_output_in_place_of_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(options("--json"), CONTENT, text)
    assert json.loads(capsys.readouterr().out) == CONTENT


def test_output_writes_the_json_beside_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "result.json"
    print_result(options("--output", str(file)), CONTENT, text)
    assert json.loads(file.read_text(encoding="utf-8")) == CONTENT
    assert capsys.readouterr().out == "the text\n"


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    chosen = options("--output", str(tmp_path / "result.json"))
    (tmp_path / "result.json").mkdir()  # after the option was checked
    with pytest.raises(UserError, match=r"^--output: .* cannot be written: Is a directory; name another place"):
        print_result(chosen, CONTENT, text)


def test_json_has_strings_for_what_it_cannot_express(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(options("--json"), {"loss": math.nan, "more": [math.inf, -math.inf, 1.5]}, text)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "loss": "NaN",
        "more": ["Infinity", "-Infinity", 1.5],
    }


def test_the_name_of_a_file_need_not_be_unicode(tmp_path: Path) -> None:
    print_result(options("--output", str(tmp_path / "result.json")), {"path": "a\udcff"}, text)
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == {"path": "a\udcff"}


@given(st.text(st.characters()))
def test_any_text_is_shown_without_commanding_the_terminal(line: str) -> None:
    assert len(printable(line)) == len(line)
    assert not set(printable(line)) & set("\x00\x07\x1b\x7f\x9b\u202e\ud800")
    assert printable(printable(line)) == printable(line)


def test_colours_in_an_error_are_shown_as_symbols(capsys: pytest.CaptureFixture[str]) -> None:
    table = FittedTable([Column("run"), Column("why", prose=True)], [("a", "\x1b[31mred\x1b[0m [/b] :a:")])
    show(plain_console(), "\x1b]0;title\x07", Text("\x1b[2J"), table)
    assert capsys.readouterr().out.split() == ["␛]0;title", "␛[2J", "run", "why", "a", "␛[31mred␛[0m", "[/b]", ":a:"]


def test_markup_and_emoji_in_a_sentence_are_letters(capsys: pytest.CaptureFixture[str]) -> None:
    show(plain_console(), "[/b] [red]x[/red] :a: " + "word " * 40, style="yellow")
    assert capsys.readouterr().out.splitlines() == ["[/b] [red]x[/red] :a: " + "word " * 40]
