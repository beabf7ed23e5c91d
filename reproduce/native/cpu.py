"""Description of this machine's CPU by Linux. This is the only module that reads /proc/cpuinfo."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CpuInfo:
    """The fields of /proc/cpuinfo that this project uses. A field that Linux does not report is empty."""

    model: str = ""
    """Name of the model. Linux reports none for Arm CPUs."""
    vendor: str = ""
    """The field `vendor_id` of an x86 CPU, or `CPU implementer` of an Arm CPU."""
    parts: tuple[str, ...] = ()
    """The different values of the field `CPU part` of an Arm CPU, one for each kind of core."""
    flags: tuple[str, ...] = ()
    """Names of the instruction set extensions, in Linux's order and spelling."""


def parse(text: str) -> CpuInfo:
    """Parse the text of /proc/cpuinfo.

    Fields are those of the first processor in the text, except `parts`, which covers all processors.
    """
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), []).append(value.strip())

    def first(*names: str) -> str:
        return next((fields[name][0] for name in names if name in fields), "")

    return CpuInfo(
        model=first("model name"),
        vendor=first("vendor_id", "CPU implementer"),
        parts=tuple(dict.fromkeys(fields.get("CPU part", ()))),
        flags=tuple(first("flags", "Features").split()),
    )


@functools.cache
def this_cpu() -> CpuInfo:
    """Describe this machine's CPU. All fields are empty on systems other than Linux. The result is cached."""
    try:
        return parse(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return CpuInfo()
