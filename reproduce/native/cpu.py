"""What Linux says about this machine's CPU. The only module that reads /proc/cpuinfo."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CpuInfo:
    """The fields of /proc/cpuinfo that the suite uses; a field that Linux does not give is empty."""

    model: str = ""
    """Name of the model; Arm CPUs have none."""
    vendor: str = ""
    """x86's `vendor_id` or Arm's `CPU implementer`."""
    parts: tuple[str, ...] = ()
    """Arm's `CPU part` of each kind of core."""
    flags: tuple[str, ...] = ()
    """Instruction set extensions, in Linux's order and spelling."""


def parse(text: str) -> CpuInfo:
    """Parse the text of /proc/cpuinfo; what differs between processors is taken from the first one, except `parts`."""
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
    """This machine's CPU; all fields are empty where the system is not Linux."""
    try:
        return parse(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return CpuInfo()
