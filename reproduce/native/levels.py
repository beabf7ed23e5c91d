"""Levels of x86-64 for which the libraries are compiled, and the variable that holds a machine to a lower one."""

from __future__ import annotations

import functools
import os

from reproduce.errors import UserError
from reproduce.native import cpu

VARIABLE = "DEEPER_CPU_LEVEL"
"""The environment variable that names the highest level to use, so that one machine can test and measure every level.
If it is unset, precompiled libraries have the highest level of the CPU, and others are compiled for this CPU alone."""

_V3 = frozenset({"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3}
"""Levels of x86-64, which are values of the compiler's option -march, and the CPU flags that each needs, in Linux's
spelling. The best level is the first."""


def requested() -> str:
    """Return the level that `VARIABLE` names, or an empty string if it is unset.

    Raises:
        UserError: There is no such level, or this CPU does not have it.
    """
    level = os.environ.get(VARIABLE, "")
    return _checked(level, cpu.this_cpu()) if level else ""


@functools.cache
def _checked(level: str, _: cpu.CpuInfo) -> str:
    """Return the level if this CPU has it. The result is cached, since every layer of a network asks for it."""
    if level not in LEVELS:
        raise UserError(f"{VARIABLE}={level}: unknown; valid: {', '.join(LEVELS)}, or unset")
    if level not in supported():
        raise UserError(f"{VARIABLE}={level}: this CPU does not have it; it has {', '.join(supported()) or 'no level'}")
    return level


def supported() -> tuple[str, ...]:
    """List the levels whose instructions this CPU has, the best first."""
    flags = frozenset(cpu.this_cpu().flags)
    return tuple(level for level, needed in LEVELS.items() if needed <= flags)


def usable() -> tuple[str, ...]:
    """List the levels of `supported` that `VARIABLE` allows, the best first."""
    found = supported()
    return found[found.index(requested()) :] if requested() else found
