"""Numbers as text."""

from __future__ import annotations

import math

import pytest

from analysis import tables


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (tables.percent(0.87654), "87.65"),
        (tables.percent(math.nan), "—"),
        (tables.points(-0.0123), "−1.23"),
        (tables.interval(-0.01, 0.02, tables.points), "[−1.00, +2.00]"),
        (tables.interval(math.nan, math.nan, tables.percent), "—"),
        (tables.interval(1.2, 3.45, tables.signed, 1), "[+1.2, +3.5]"),
        (tables.share_interval(0.97, 1.02, 1), "[97.0, 100.0 (cut)]"),
        (tables.share_interval(-0.1, 0.2, 1), "[0.0 (cut), 20.0]"),
        (tables.share_interval(math.nan, math.nan), "—"),
        (tables.quantity(3.925e12), "3.92 T"),
        (tables.signed(-0.001), "+0.00"),
        (tables.counted(1, "run"), "1 run"),
        (tables.counted(3, "run"), "3 runs"),
        (tables.p_value(0.00001), "< 0.001"),
        (tables.p_value(0.0312), "0.031"),
        (tables.p_value(0.31), "0.31"),
        (tables.quantity(13_004_888), "13.0 M"),
        (tables.quantity(1.58e9), "1.58 G"),
        (tables.quantity(999_960), "1.00 M"),
        (tables.quantity(math.nan), "—"),
        (tables.duration(45), "45 s"),
        (tables.duration(126), "2.1 min"),
        (tables.duration(3600 * 5), "5.0 h"),
        (tables.duration(math.inf), "∞"),
        (tables.quantity(-math.inf), "−∞"),
        (tables.percent(math.inf), "∞"),
        (tables.interval(0.5, math.inf, tables.number, 1), "[0.5, ∞]"),
    ],
)
def test_numbers_as_text(text: str, shown: str) -> None:
    assert text == shown


def test_a_caption_in_latex_may_hold_any_character() -> None:
    latex = tables.Table(r"100 % of a_b & {c} #1 $ ~ ^ \x", ["a"], [[tables.Cell("∞")]]).latex("name")
    escaped = r"100 \% of a\_b \& \{c\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{}x"
    assert rf"\caption{{{escaped}}}" in latex
    assert latex.isascii()
