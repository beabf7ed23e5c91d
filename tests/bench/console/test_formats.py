"""How quantities are printed."""

from __future__ import annotations

import pytest

from bench.console.formats import format_duration


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_a_duration_is_given_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
