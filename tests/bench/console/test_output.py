"""Results as text, as JSON on standard output, and as JSON in a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from bench.console.options import add_json
from bench.console.output import plain_console, print_result, show
from reproduce.errors import UserError

CONTENT = {"run": "a s0"}


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_json(parser)
    return parser.parse_args(words)


def text() -> None:
    print("the text")


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
    with pytest.raises(UserError, match=r"^--output: .* cannot be written: Is a directory"):
        print_result(options("--output", str(tmp_path)), CONTENT, text)


def test_markup_and_emoji_in_a_sentence_are_letters(capsys: pytest.CaptureFixture[str]) -> None:
    show(plain_console(), "[/b] [red]x[/red] :a: " + "word " * 40, style="yellow")
    assert capsys.readouterr().out.splitlines() == ["[/b] [red]x[/red] :a: " + "word " * 40]
