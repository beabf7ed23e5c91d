"""A machine can be held to a lower level of x86-64, by a variable that is checked before anything is compiled."""

from __future__ import annotations

import pytest

from reproduce.errors import UserError
from reproduce.native import KERNELS, cpu, levels
from reproduce.native.cpu import CpuInfo

V3, V4 = "x86-64-v3", "x86-64-v4"


@pytest.fixture(params=[V3, V4, ""])
def best(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The best level of a simulated CPU; empty if it has none."""
    monkeypatch.delenv(levels.VARIABLE, raising=False)
    flags = levels.LEVELS.get(request.param, frozenset())
    monkeypatch.setattr(cpu, "this_cpu", lambda: CpuInfo(flags=tuple(flags)))
    return str(request.param)


def test_a_cpu_uses_its_levels_down_from_the_one_that_is_asked_for(best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    every = {V4: (V4, V3), V3: (V3,), "": ()}[best]
    assert levels.usable() == levels.supported() == every
    if every:
        monkeypatch.setenv(levels.VARIABLE, V3)
        assert levels.usable() == (V3,)


def test_a_level_that_there_is_not_is_refused(best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(levels.VARIABLE, "avx2")
    with pytest.raises(UserError, match="DEEPER_CPU_LEVEL=avx2: unknown; valid: x86-64-v4, x86-64-v3, or unset"):
        KERNELS.requested()
    if best != V4:
        monkeypatch.setenv(levels.VARIABLE, V4)
        with pytest.raises(UserError, match="DEEPER_CPU_LEVEL=x86-64-v4: this CPU does not have it; it has"):
            KERNELS.requested()


@pytest.mark.parametrize("level", levels.supported())
def test_the_implementation_names_the_level_that_was_asked_for(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(levels.VARIABLE, level)
    assert f"compiled for {level}" in str(KERNELS.implementation())
