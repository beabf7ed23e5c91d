"""Identifies the CPU by model, vendor, and the instruction sets that decide how fast a network runs."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from reproduce.native import cpu
from reproduce.native.cpu import CpuInfo

SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "sve", "asimd")
"""Instruction sets by Linux's names, the fastest first: four of x86, then three of Arm."""
VENDORS = {  # keys: the vendor_id of x86 and the CPU implementer of Arm in /proc/cpuinfo
    "GenuineIntel": "intel",
    "AuthenticAMD": "amd",
    "HygonGenuine": "hygon",
    "0x41": "arm",
    "0x46": "fujitsu",
    "0x48": "hisilicon",
    "0x4e": "nvidia",
    "0x61": "apple",
    "0x6d": "microsoft",
    "0xc0": "ampere",
}


@dataclass(frozen=True)
class Cpu:
    """The properties of a CPU that determine how measurements on it compare with others."""

    model: str
    """The name of the model, or the architecture (such as aarch64) if Linux gives no name."""
    vendor: str
    """The vendor in lower case, or the architecture if the vendor is not in `VENDORS`."""
    flags: tuple[str, ...]
    """The instruction sets of `SETS` that the CPU has, in the order of `SETS`."""


def parse(text: str) -> Cpu:
    """Parse the text of /proc/cpuinfo and return the CPU of its first processor."""
    return _summary(cpu.parse(text))


def this_cpu() -> Cpu:
    """Return this machine's CPU.

    On systems other than Linux, model and vendor are the architecture, and there are no flags.
    """
    return _summary(cpu.this_cpu())


def _summary(info: CpuInfo) -> Cpu:
    return Cpu(
        model=info.model or platform.machine(),
        vendor=VENDORS.get(info.vendor, platform.machine()),
        flags=tuple(name for name in SETS if name in info.flags),
    )
