"""Text that others wrote, in Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reproduce.text.markdown import as_cell, as_markdown, from_markdown


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("a|b", "a\\|b"),
        ("*x* `y` _z_ $5^$", "\\*x\\* \\`y\\` \\_z\\_ \\$5^\\$"),
        ("[x](javascript:y)", "[x]\\(javascript:y)"),
        (":smile:", "\\:smile:"),
        ("# big", "\\# big"),
        ("a&lt;b &#60; &amp; R&D; &", "a\\&lt;b \\&#60; \\&amp; R\\&D; &"),
        (">quoted", "\\>quoted"),
        ("---", "\\---"),
        ("===", "\\==="),
        ("-", "\\-"),
        ("-x", "-x"),
        ("1. first", "1\\. first"),
        ("2) second", "2\\) second"),
        ("1.5 points", "1.5 points"),
        ("[x] done", "\\[x] done"),
        ("[a]: /b", "\\[a]: /b"),
        ("two\nlines\r\nand a tab\t.", "two lines and a tab ."),
        ("[+0.84, +3.35], p < 0.001, aux_both: 3 > 2, 12:30", "[+0.84, +3.35], p < 0.001, aux_both: 3 > 2, 12:30"),
    ],
)
def test_text_means_nothing_in_markdown(text: str, markdown: str) -> None:
    assert as_markdown(text) == markdown


CHARACTERS = st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"])
MARKS = st.sampled_from(["&lt;", "&amp;", "[x] ", "[a]: ", "1. ", "---", *"<>|*_`\\$:#[]()&;=-+."])


@given(st.lists(CHARACTERS | MARKS).map("".join))
def test_text_comes_back_from_markdown(text: str) -> None:
    assert from_markdown(as_markdown(text)) == text


@given(st.text())
def test_a_cell_of_a_table_is_one_line_without_bars_and_tags(text: str) -> None:
    for cell in (as_markdown(text), as_cell(text)):
        assert len(cell.splitlines()) <= 1
        assert "|" not in cell.replace("\\\\", "").replace("\\|", "") or cell == as_cell(text)
        assert "<s" not in cell
