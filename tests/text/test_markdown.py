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
        ("two\nlines\r\nand a tab\t.", "two lines and a tab ."),
        ("[+0.84, +3.35], p < 0.001, aux_both: 3 > 2, 12:30", "[+0.84, +3.35], p < 0.001, aux_both: 3 > 2, 12:30"),
    ],
)
def test_text_means_nothing_in_markdown(text: str, markdown: str) -> None:
    assert as_markdown(text) == markdown


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]) | st.sampled_from("<>|*_`\\$:#[]()")))
def test_text_comes_back_from_markdown(text: str) -> None:
    if "&lt;" not in text:
        assert from_markdown(as_markdown(text)) == text


@given(st.text())
def test_a_cell_of_a_table_is_one_line_without_bars_and_tags(text: str) -> None:
    for cell in (as_markdown(text), as_cell(text)):
        assert len(cell.splitlines()) <= 1
        assert "|" not in cell.replace("\\\\", "").replace("\\|", "") or cell == as_cell(text)
        assert "<s" not in cell
