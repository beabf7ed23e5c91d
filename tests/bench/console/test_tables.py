"""Tables at several widths: no name and no number is ever cut."""

from __future__ import annotations

import pytest
from rich.text import Text

from bench.console.output import plain_console
from bench.console.tables import Column, FittedTable

NAMES = ("reduced-both-with-a-long-name s0", "[/b] [red]x[/red] :a: s1", "Größe-模型 s2")

GRID = FittedTable(
    (
        Column("run"),
        Column("key", priority=2),
        Column("images", "right", priority=3),
        Column("top-1", "right", priority=1),
    ),
    [(name, "4fc8fd0aa446", f"{1234567 * number:,}", f"{71.5 + number} %") for number, name in enumerate(NAMES, 1)],
)

FINDINGS = FittedTable(
    (Column(""), Column("check"), Column("found", prose=True)),
    [
        ("ok", "torch", "2.14.1, trains on CPU, 2 threads"),
        (
            Text("warn", style="yellow"),
            "file system of records",
            "nfs at /a; it is unknown whether locks reach other hosts\nhint: mount it with the option flock",
        ),
        ("ok", "tracking", "sqlite:////home/somebody/with/a/very/long/path/to/the/records/of/deeper/mlflow.db"),
    ],
)


def printed(table: FittedTable, width: int, *, pipe: bool = False) -> str:
    console = plain_console()
    console.width = width
    with console.capture() as captured:
        console.print(table, soft_wrap=pipe)
    return captured.get()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_names_and_numbers_appear_whole_and_as_typed(width: int) -> None:
    text = printed(GRID, width)
    lines = text.splitlines()
    assert all(any(name in line for line in lines) for name in NAMES)
    assert all(f"{71.5 + number} %" in text for number in (1, 2, 3))
    assert "…" not in text
    assert all(Text(line).cell_len <= width for line in lines)


def test_a_wide_terminal_shows_every_column_aligned() -> None:
    assert printed(GRID, 200).splitlines() == [
        "run                               key              images   top-1",
        "reduced-both-with-a-long-name s0  4fc8fd0aa446  1,234,567  72.5 %",
        "[/b] [red]x[/red] :a: s1          4fc8fd0aa446  2,469,134  73.5 %",
        "Größe-模型 s2                     4fc8fd0aa446  3,703,701  74.5 %",
    ]


def test_the_least_important_columns_are_left_out_first_and_named_below() -> None:
    assert printed(GRID, 60).splitlines()[0].split() == ["run", "key", "top-1"]
    assert printed(GRID, 60).splitlines()[-1] == "left out, because the terminal is too narrow: images"
    assert printed(GRID, 45).splitlines()[0].split() == ["run", "top-1"]
    assert " ".join(printed(GRID, 45).split()).endswith("the terminal is too narrow: key; images")


def test_rows_become_blocks_with_every_cell_if_the_essential_columns_do_not_fit() -> None:
    assert printed(GRID, 30).splitlines()[-4:] == [
        "Größe-模型 s2",
        "  key: 4fc8fd0aa446",
        "  images: 3,703,701",
        "  top-1: 74.5 %",
    ]


def test_sentences_wrap_between_words_and_keep_their_lines() -> None:
    lines = printed(FINDINGS, 80).splitlines()
    assert "ok    torch                   2.14.1, trains on CPU, 2 threads" in lines
    start = lines.index("warn  file system of records  nfs at /a; it is unknown whether locks reach other")
    assert lines[start + 1 : start + 3] == [
        "                              hosts",
        "                              hint: mount it with the option flock",
    ]


def test_a_sentence_with_a_word_wider_than_its_column_stands_below_its_row() -> None:
    table = FittedTable(FINDINGS.columns, [("ok", "tracking", f"sqlite:///{'a' * 55}.db"), FINDINGS.rows[1]])
    lines = printed(table, 80).splitlines()
    assert lines[1:3] == ["ok    tracking", f"      sqlite:///{'a' * 55}.db"]


def test_a_narrow_terminal_gets_findings_in_blocks() -> None:
    lines = printed(FINDINGS, 40).splitlines()
    assert lines[:2] == ["ok  torch", "  found: 2.14.1, trains on CPU, 2"]
    assert "warn  file system of records" in lines


def test_a_pipe_gets_every_column_and_one_line_a_row() -> None:
    assert printed(GRID, 40, pipe=True) == printed(GRID, 200)
    assert printed(FINDINGS, 40, pipe=True).splitlines()[-1].endswith("/records/of/deeper/mlflow.db")


def test_a_table_without_rows_shows_its_titles() -> None:
    assert printed(FittedTable(GRID.columns, []), 80).split() == ["run", "key", "images", "top-1"]
